//! Who touched which byte since the last barrier: races, unwaited copies, unwritten shared memory.

use super::clocks::Clocks;
use super::finding::Key;
use super::global::View;
use super::shared::{self, Hit};
use crate::machine::Grid;
use crate::machine::registers::{LANES, W64};
use crate::machine::warp::Spot;
use crate::memory::Lookup;
use crate::watch::Kind;

/// One access of a warp, as `machine/memory` tells it before it is carried out.
pub struct Access<'a> {
    /// Number of the warp in its block.
    pub warp: u32,
    /// Lanes that access.
    pub mask: u32,
    /// Offsets in the block's shared memory, or global addresses, lane by lane.
    pub addresses: &'a W64,
    /// Bytes that each lane touches.
    pub bytes: u32,
    pub how: How,
    /// Volatile, relaxed, acquire, release or atomic: two such accesses never race with each other.
    pub strong: bool,
    /// Of a plain write the lanes that find in memory what they write (before any lane has written):
    /// no race between equal writes. 0 for anything else.
    pub unchanged: u32,
    /// Of a plain write what it writes, lane after lane, `bytes` each, 32 lanes. Empty for anything else.
    pub values: &'a [u8],
    /// Index of the instruction.
    pub pc: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Read,
    Write,
    /// Reads and writes at once.
    Atomic,
    /// The write of an asynchronous copy, which happens some time before its group is waited for.
    AsyncWrite,
}

impl How {
    fn verb(self) -> &'static str {
        match self {
            How::Read => "read",
            How::Write => "write",
            How::Atomic => "atomic access",
            How::AsyncWrite => "asynchronous write",
        }
    }
}

/// What the watchman knows of the running block.
#[derive(Debug, Default)]
pub struct BlockWatch {
    /// Before the first block nothing is watched.
    begun: bool,
    block: [u32; 3],
    clocks: Clocks,
    shared: shared::Shadow,
    global: View,
    lookup: Lookup,
    hits: Vec<Hit>,
    /// Reads that are no fault if their thread goes on to an atomic there.
    guesses: Vec<Told>,
}

/// What a finding is made from: one lane of an access.
#[derive(Debug, Clone, Copy)]
struct Told {
    hit: Hit,
    shared: bool,
    thread: u32,
    pc: u32,
    bytes: u32,
    how: How,
}

impl BlockWatch {
    /// A new block starts with unwritten shared memory and nothing touched.
    pub fn begin(&mut self, grid: &Grid, block: [u32; 3]) {
        let threads = grid.block_dim.iter().product::<u32>() as usize;
        let goes_on = self.clocks.begin(threads.div_ceil(LANES));
        self.shared.begin(grid.shared_bytes, grid.launch, !goes_on);
        let [x, y, z] = block.map(u64::from);
        let [width, height, _] = grid.grid_dim.map(u64::from);
        self.global.begin((z * height + y) * width + x);
        (self.block, self.begun) = (block, true);
        self.guesses.clear();
    }

    /// A barrier was completed by these warps (bit w of `warps`): what they did before it is ordered
    /// before what they do after it. One of the `whole` block does not wait for threads that have exited.
    pub fn barrier(&mut self, warps: u32, whole: bool) {
        self.clocks.barrier(warps, whole);
    }

    /// `bar.warp.sync` ordered these lanes of a warp.
    pub fn warp_sync(&mut self, warp: u32, _lanes: u32) {
        self.clocks.warp_sync(warp as usize);
    }

    /// A fence (`fence`, `membar`); a `wide` one is of device or system scope. An access with release
    /// semantics calls it before the access.
    pub fn fence(&mut self, grid: &Grid, warp: u32, wide: bool) {
        self.clocks.fence(warp as usize);
        if wide {
            grid.log.fences.fence(self.global.block, self.clocks.steps());
        }
    }

    /// The last thread of a warp has exited.
    pub fn exit(&mut self, grid: &Grid, warp: u32) {
        self.clocks.exit(warp as usize);
        let mut guesses = std::mem::take(&mut self.guesses);
        guesses.retain(|told| {
            let here = told.thread / LANES as u32 == warp;
            if here {
                self.tell(grid, told);
            }
            !here
        });
        self.guesses = guesses;
    }

    /// An access to shared memory, within its bounds. What is wrong with it goes to the grid's log.
    pub fn shared(&mut self, grid: &Grid, access: &Access) {
        if !self.begun {
            return;
        }
        self.shared.access(&mut self.clocks, access, &mut self.hits);
        if !self.hits.is_empty() {
            self.report(grid, access, true);
        }
        self.forgive(access, true);
    }

    /// An access to global memory, within an allocation. What is wrong with it goes to the grid's log.
    pub fn global(&mut self, grid: &Grid, access: &Access) {
        if !self.begun {
            return;
        }
        self.global.enter(&grid.log.fences);
        let worth = View::worth(access);
        self.global_lanes(grid, access, worth);
        if worth != access.mask && self.hits.iter().any(|hit| hit.guess) {
            // Which of the readers goes on to an atomic will be seen: each counts.
            self.global_lanes(grid, access, access.mask & !worth);
        }
        self.global.leave(&mut self.clocks, access);
        if !self.hits.is_empty() {
            self.report(grid, access, false);
        }
        self.forgive(access, false);
    }

    fn global_lanes(&mut self, grid: &Grid, access: &Access, mut rest: u32) {
        while rest != 0 {
            let first = access.addresses[rest.trailing_zeros() as usize];
            // Nearly always all lanes are in one allocation.
            let mut here = rest;
            if self.lookup.find(grid.memory, access.pc, first).is_ok()
                && let Some(region) = self.lookup.region(access.pc)
            {
                for (lane, &address) in access.addresses.iter().enumerate() {
                    here &= !(u32::from(address.wrapping_sub(region.base) >= region.bytes) << lane);
                }
                self.global.access(
                    (&self.clocks, &grid.log.fences, grid.launch),
                    (&region.shadow, region.base, region.bytes),
                    access,
                    here,
                    &mut self.hits,
                );
            }
            rest &= !here;
        }
    }

    /// The asynchronous writes of these bytes by this thread are complete and visible to it.
    pub fn async_done(&mut self, warp: u32, lane: usize, offset: u32, bytes: u32) {
        if !self.begun {
            return;
        }
        let thread = warp * LANES as u32 + lane as u32;
        self.shared.async_done(self.clocks.epoch(warp as usize), thread, offset, bytes);
    }

    /// An atomic makes plain reads by the same threads of the same place good.
    fn forgive(&mut self, access: &Access, shared: bool) {
        if access.how != How::Atomic || self.guesses.is_empty() {
            return;
        }
        self.guesses.retain(|told| {
            let lane = told.thread as usize % LANES;
            let at = access.addresses[lane];
            !(told.shared == shared
                && told.thread / LANES as u32 == access.warp
                && access.mask >> lane & 1 != 0
                && (at..at + u64::from(access.bytes)).contains(&told.hit.at))
        });
    }

    #[cold]
    fn report(&mut self, grid: &Grid, access: &Access, shared: bool) {
        let mut hits = std::mem::take(&mut self.hits);
        for hit in hits.drain(..) {
            let thread = access.warp * LANES as u32 + hit.lane as u32;
            let told =
                Told { hit, shared, thread, pc: access.pc, bytes: access.bytes, how: access.how };
            if hit.guess {
                self.guesses.push(told);
            } else {
                self.tell(grid, &told);
            }
        }
        self.hits = hits;
    }

    fn tell(&self, grid: &Grid, told: &Told) {
        let hit = &told.hit;
        let line = |pc: u32| grid.program.lines.get(pc as usize).map_or(0, |line| line.0);
        let key = Key {
            kind: hit.kind,
            line: line(told.pc),
            other: hit.other.map_or(0, |other| line(other.pc)),
            block: self.block,
        };
        grid.log.report_as(key, || {
            let spot =
                |block, thread, pc| Spot { block, thread: place(thread, grid.block_dim), pc };
            let other = hit.other.map(|other| {
                let block = if hit.kind == Kind::CrossBlockRace {
                    place_in(other.block, grid.grid_dim)
                } else {
                    self.block
                };
                spot(block, other.thread, other.pc)
            });
            let name =
                if told.shared { shared_name(grid, hit.at) } else { global_name(grid, hit.at) };
            let what = match (hit.kind, hit.other) {
                (Kind::AsyncNotWaited, _) => "into which an asynchronous copy is under way",
                (_, Some(other)) if other.at_once => {
                    "where another lane of the same instruction writes something else"
                }
                (_, Some(other)) if other.wrote => "which the other wrote",
                (_, Some(_)) => "which the other read",
                (_, None) => "which nothing has written",
            };
            let detail = format!("{} of {} bytes at {name}, {what}", told.how.verb(), told.bytes);
            grid.finding(hit.kind, spot(self.block, told.thread, told.pc), other, detail)
        });
    }
}

fn shared_name(grid: &Grid, at: u64) -> String {
    let names = &grid.program.shared_names;
    match names.iter().rev().find(|(offset, _)| u64::from(*offset) <= at) {
        Some((offset, name)) => {
            format!("`{}` + {} (shared {at:#x})", plain(name), at - u64::from(*offset))
        }
        None => format!("shared {at:#x}"),
    }
}

/// `tile` of `_ZZ6kernelE4tile`: what a variable within a function is called (Itanium C++ ABI, 5.1.6).
fn plain(name: &str) -> &str {
    let last = name.starts_with("_ZZ").then(|| name.rfind('E')).flatten().map(|at| &name[at + 1..]);
    let Some(last) = last else { return name };
    let digits = last.len() - last.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let long = last[..digits].parse().ok().and_then(|long: usize| last.get(digits..digits + long));
    long.unwrap_or(name)
}

fn global_name(grid: &Grid, at: u64) -> String {
    match grid.memory.region(at, 1) {
        Ok(region) => format!(
            "{at:#x}, {} bytes into the {} bytes at {:#x} (allocation {})",
            at - region.base,
            region.bytes,
            region.base,
            region.number
        ),
        Err(_) => format!("{at:#x}"),
    }
}

/// Index in its block of a thread with this number.
fn place(thread: u32, dim: [u32; 3]) -> [u32; 3] {
    place_in(u64::from(thread), dim)
}

fn place_in(number: u64, [x, y, _]: [u32; 3]) -> [u32; 3] {
    let (x, y) = (u64::from(x), u64::from(y));
    [number % x, number / x % y, number / (x * y)].map(|i| i as u32)
}
