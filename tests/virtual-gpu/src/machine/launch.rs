//! A grid on the machine's cores: every host thread takes blocks and runs them to their ends.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Grid;
use super::block::{Block, Random, Stopped};

/// Instructions of a warp's turn, before the next warp of its block runs.
const WARP_TURN: u64 = 1 << 14;
/// Instructions of a block before another one is started beside it: it may be waiting for that one.
const BLOCK_TURN: u64 = 1 << 18;

/// Blocks that wait for a host thread.
struct Queue {
    /// Next block of the grid to start.
    next: u64,
    /// Started, and put aside because they ran for long.
    paused: VecDeque<Block>,
    /// Done, kept for what they have allocated.
    spare: Vec<Block>,
    /// Started and not done.
    in_flight: u64,
    /// New blocks that may be started beside the paused ones. A block earns one after 1, 2, 4, 8 … turns:
    /// blocks that wait for all others get them soon, and long ones do not fill memory with their like.
    earned: u64,
}

/// Runs all blocks. `resident` is how many may be in flight at once, `seed` shuffles blocks and warps.
/// Gives the warp instructions executed, or that the log has a fault.
pub fn run(grid: &Grid, threads: usize, resident: u64, seed: Option<u64>) -> Result<u64, Stopped> {
    let blocks = grid.grid_dim.iter().map(|n| u64::from(*n)).product::<u64>();
    let queue = Mutex::new(Queue {
        next: 0,
        paused: VecDeque::new(),
        spare: Vec::new(),
        in_flight: 0,
        earned: 0,
    });
    let order = Order::new(blocks, seed);
    let (stop, executed) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = |worker: u64| {
        let mut random = seed.map(|seed| Random::new(seed ^ (worker + 1) << 32));
        while let Some(mut block) = take(&queue, grid, &order, resident) {
            let result = slice(&mut block, grid, &stop, random.as_mut());
            let mut queue = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            match result {
                Ok((done, instructions)) => {
                    executed.fetch_add(instructions, Ordering::Relaxed);
                    if done {
                        queue.in_flight -= 1;
                        queue.spare.push(block);
                    } else {
                        block.turns += 1;
                        queue.earned += u64::from(block.turns.is_power_of_two());
                        queue.paused.push_back(block);
                    }
                }
                Err(Stopped) => {
                    stop.store(true, Ordering::Relaxed);
                    queue.next = blocks;
                    queue.paused.clear();
                }
            }
        }
    };
    let threads = (threads as u64).min(blocks).max(1);
    if threads == 1 {
        work(0);
    } else {
        let work = &work;
        std::thread::scope(|scope| {
            for worker in 1..threads {
                scope.spawn(move || work(worker));
            }
            work(0);
        });
    }
    if stop.load(Ordering::Relaxed) { Err(Stopped) } else { Ok(executed.load(Ordering::Relaxed)) }
}

/// A block to run: a new one if there is room, else one that was put aside.
fn take(queue: &Mutex<Queue>, grid: &Grid, order: &Order, resident: u64) -> Option<Block> {
    let mut queue = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let room = queue.earned > 0 && queue.in_flight < resident;
    if queue.next < order.blocks && (queue.paused.is_empty() || room) {
        queue.earned -= u64::from(!queue.paused.is_empty());
        let number = order.at(queue.next);
        queue.next += 1;
        queue.in_flight += 1;
        let mut block = queue.spare.pop().unwrap_or_default();
        drop(queue);
        block.begin(grid, number);
        return Some(block);
    }
    queue.paused.pop_front()
}

/// Runs a block to its end, or for a block's turn.
fn slice(
    block: &mut Block,
    grid: &Grid,
    stop: &AtomicBool,
    mut random: Option<&mut Random>,
) -> Result<(bool, u64), Stopped> {
    let mut total = 0;
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(Stopped);
        }
        // With a seed turns are short and uneven, so that warps meet each other at many places.
        let fuel = match &mut random {
            Some(random) => 1 + random.draw() % 64,
            None => WARP_TURN,
        };
        let (done, executed) = block.step(grid, fuel, random.as_deref_mut())?;
        total += executed;
        if done || total >= BLOCK_TURN {
            return Ok((done, total));
        }
    }
}

/// The order in which blocks start: as they are numbered, or stepping through them by a seeded stride.
struct Order {
    blocks: u64,
    first: u64,
    stride: u64,
}

impl Order {
    fn new(blocks: u64, seed: Option<u64>) -> Order {
        let Some(seed) = seed else { return Order { blocks, first: 0, stride: 1 } };
        let mut random = Random::new(seed);
        let first = random.draw() % blocks.max(1);
        let mut stride = (random.draw() % blocks.max(1)) | 1;
        while gcd(stride, blocks) != 1 {
            stride += 2;
        }
        Order { blocks, first, stride: stride % blocks.max(1) }
    }

    fn at(&self, i: u64) -> u64 {
        let at = u128::from(i) * u128::from(self.stride) + u128::from(self.first);
        (at % u128::from(self.blocks)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
