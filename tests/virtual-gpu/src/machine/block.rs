//! A block of threads: its warps, its shared memory, its barriers.

use super::registers::Lanes;
use super::strand::{self, Progress, Wait};
use super::{Fault, Grid, warp};
use crate::memory::Lookup;
use crate::watch::Kind;
use crate::watch::race::BlockWatch;

/// What unwritten shared memory holds: signalling NaNs as f32, large negative numbers as integers.
const UNWRITTEN: u32 = 0xFFA5_FFA5;

/// Shared memory and what else the warps of a block have in common.
#[derive(Debug, Default)]
pub struct State {
    /// Place in the grid, x y z.
    pub index: [u32; 3],
    /// Number in the grid: x fastest.
    pub linear: u64,
    /// The block's shared memory, 64-byte aligned (every `Lanes` is 128 bytes of it).
    pub shared: Vec<Lanes>,
    pub watch: BlockWatch,
    /// Which allocations the instructions last used.
    pub lookup: Lookup,
    /// The 16 named barriers.
    pub barriers: [Barrier; 16],
    kept: Vec<Kept>,
    /// Threads that have not exited.
    pub live: u32,
}

/// Who has arrived at a barrier.
#[derive(Debug, Default, Clone, Copy)]
pub struct Barrier {
    /// Goes up when the barrier is complete.
    pub generation: u32,
    arrived: u32,
    /// `None` while all threads of the block are expected.
    count: Option<u32>,
    warps: u32,
    voters: u32,
    votes: u32,
    /// Strands that wait for what is voted.
    takers: u32,
}

/// Threads of a warp that come to a barrier.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub warp: u32,
    /// How many, as the barrier counts them.
    pub threads: u32,
    /// How many the barrier waits for; `None` for all of the block.
    pub count: Option<u32>,
    /// Of bar.red: how many vote, and how many of them vote yes.
    pub votes: Option<(u32, u32)>,
}

/// What was voted at a barrier, until all who voted have seen it: by then others may have voted again.
#[derive(Debug, Clone, Copy)]
struct Kept {
    id: usize,
    generation: u32,
    votes: Votes,
    takers: u32,
}

/// Results of bar.red.
#[derive(Debug, Default, Clone, Copy)]
pub struct Votes {
    pub count: u32,
    pub all: bool,
    pub any: bool,
}

impl State {
    /// The bytes of shared memory.
    pub fn shared_bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.shared)
    }

    /// Threads of a warp are at barrier `id`.
    pub fn arrive(&mut self, id: usize, arrival: Arrival) {
        let barrier = &mut self.barriers[id];
        barrier.arrived += arrival.threads;
        barrier.count = arrival.count;
        barrier.warps |= 1 << arrival.warp;
        if let Some((voters, votes)) = arrival.votes {
            barrier.voters += voters;
            barrier.votes += votes;
            barrier.takers += 1;
        }
        self.complete(id);
    }

    /// What was voted at the end of a generation of a barrier: for each strand that voted, once.
    pub fn take_votes(&mut self, id: u8, generation: u32) -> Votes {
        let wanted = |kept: &Kept| (kept.id, kept.generation) == (usize::from(id), generation);
        let Some(at) = self.kept.iter().position(wanted) else { return Votes::default() };
        let votes = self.kept[at].votes;
        self.kept[at].takers -= 1;
        if self.kept[at].takers == 0 {
            self.kept.swap_remove(at);
        }
        votes
    }

    /// Threads have exited: barriers of the whole block no longer wait for them.
    pub fn exited(&mut self, threads: u32) {
        self.live -= threads;
        for id in 0..self.barriers.len() {
            if self.barriers[id].arrived > 0 {
                self.complete(id);
            }
        }
    }

    fn complete(&mut self, id: usize) {
        let barrier = &mut self.barriers[id];
        if barrier.arrived < barrier.count.unwrap_or(self.live) {
            return;
        }
        if barrier.takers > 0 {
            let (count, all) = (barrier.votes, barrier.votes == barrier.voters);
            let votes = Votes { count, all, any: count > 0 };
            let (generation, takers) = (barrier.generation, barrier.takers);
            self.kept.push(Kept { id, generation, votes, takers });
        }
        let (warps, whole) = (barrier.warps, barrier.count.is_none());
        *barrier = Barrier { generation: barrier.generation.wrapping_add(1), ..Barrier::default() };
        self.watch.barrier(warps, whole);
    }
}

/// A block in flight.
#[derive(Default)]
pub struct Block {
    pub state: State,
    pub warps: Vec<warp::State>,
    /// How often it was put aside to let others run.
    pub turns: u64,
    /// Warps that are not done, in the order in which they run.
    order: Vec<u32>,
}

impl Block {
    /// Starts block number `linear` of the grid, with what this one had allocated before.
    pub fn begin(&mut self, grid: &Grid, linear: u64) {
        let [x, y, _] = grid.grid_dim.map(u64::from);
        let index = [linear % x, linear / x % y, linear / (x * y)].map(|i| i as u32);
        let threads = grid.block_dim.iter().product::<u32>();
        let state = &mut self.state;
        (state.index, state.linear, state.live) = (index, linear, threads);
        state.barriers = Default::default();
        state.kept.clear();
        state.shared.clear();
        state.shared.resize(
            (grid.shared_bytes as usize).div_ceil(size_of::<Lanes>()),
            Lanes([UNWRITTEN; 32]),
        );
        if grid.watched {
            state.watch.begin(grid, index);
        }
        let warps = threads.div_ceil(32);
        self.warps.resize_with(warps as usize, warp::State::default);
        for (i, warp) in (0..).zip(&mut self.warps) {
            warp.begin(i, threads, grid.program.functions[0].local_bytes);
        }
        self.turns = 0;
        self.order.clear();
        self.order.extend(0..warps);
    }

    /// Runs every warp for a turn of `fuel` instructions. Gives whether the block is done, and how many
    /// instructions were executed. On a fault the log has it already.
    pub fn step(
        &mut self,
        grid: &Grid,
        fuel: u64,
        shuffle: Option<&mut Random>,
    ) -> Result<(bool, u64), Stopped> {
        if let Some(random) = shuffle {
            random.shuffle(&mut self.order);
        }
        let (mut executed, mut moved) = (0, false);
        let mut i = 0;
        while i < self.order.len() {
            let warp = &mut self.warps[self.order[i] as usize];
            match strand::run(warp, &mut self.state, grid, fuel) {
                Ok((progress, used)) => {
                    executed += used;
                    moved |= used > 0;
                    if progress == Progress::Done {
                        self.order.remove(i);
                        moved = true;
                    } else {
                        i += 1;
                    }
                }
                Err((pc, fault)) => {
                    self.report(grid, self.order[i] as usize, pc, fault);
                    return Err(Stopped);
                }
            }
        }
        // A barrier may have been completed by the last warp of the round, which frees the first.
        if !moved && !self.order.is_empty() && !self.can_go_on() {
            self.report_deadlock(grid);
            return Err(Stopped);
        }
        Ok((self.order.is_empty(), executed))
    }

    fn can_go_on(&self) -> bool {
        let waits = |strand: &strand::Strand| match strand.wait {
            Wait::Nothing => false,
            Wait::Lanes => true,
            Wait::Barrier { id, generation, .. } => {
                self.state.barriers[id as usize].generation == generation
            }
        };
        self.warps.iter().any(|warp| !warp.strands.iter().all(waits))
    }

    fn report(&self, grid: &Grid, warp: usize, pc: u32, fault: Fault) {
        let thread = self.warps[warp].thread(fault.lane, grid.block_dim);
        let spot = warp::Spot { block: self.state.index, thread, pc };
        grid.log.report(grid.finding(fault.kind, spot, None, fault.detail));
    }

    /// Nothing in the block can go on: names a thread that waits, and one that it waits for.
    fn report_deadlock(&self, grid: &Grid) {
        let mut waiting = Vec::new();
        for (number, warp) in self.warps.iter().enumerate() {
            for strand in &warp.strands {
                waiting.push((number, strand));
            }
        }
        let Some((number, strand)) = waiting
            .iter()
            .find(|(_, strand)| matches!(strand.wait, Wait::Lanes))
            .or_else(|| waiting.first())
        else {
            return;
        };
        let lane = strand.mask.trailing_zeros() as usize;
        let elsewhere = waiting.iter().find(|(_, other)| other.pc != strand.pc);
        let other = elsewhere.map(|(number, other)| warp::Spot {
            block: self.state.index,
            thread: self.warps[*number]
                .thread(other.mask.trailing_zeros() as usize, grid.block_dim),
            pc: other.pc - u32::from(matches!(other.wait, Wait::Barrier { .. })),
        });
        let (pc, detail) = match strand.wait {
            Wait::Barrier { id, .. } => {
                let barrier = &self.state.barriers[id as usize];
                let expected = barrier.count.unwrap_or(self.state.live);
                let arrived = barrier.arrived;
                (
                    strand.pc - 1,
                    format!("barrier {id} waits for {expected} threads, and {arrived} arrive"),
                )
            }
            _ => (
                strand.pc,
                format!(
                    "lanes {:#010x} of a warp wait for others of it that never come",
                    strand.mask
                ),
            ),
        };
        let thread = self.warps[*number].thread(lane, grid.block_dim);
        let spot = warp::Spot { block: self.state.index, thread, pc };
        grid.log.report(grid.finding(Kind::BarrierNotReached, spot, other, detail));
    }
}

/// The launch ends here: its log says why.
#[derive(Debug, Clone, Copy)]
pub struct Stopped;

/// A xorshift generator (Marsaglia 2003): schedules that can be had again by their seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.draw() % (i as u64 + 1)) as usize);
        }
    }
}
