//! The CPU as a device: an instruction set chosen once, and a team of threads.
//!
//! Work is cut by shape, never by the number of threads, so 1, 2 or 16 threads give the same
//! bits. The instruction set is part of the device: another one may round differently.

mod blocks;
pub mod documents;
pub mod element;
pub mod gemm;
pub mod peak;
pub mod simd;
mod team;

use std::sync::OnceLock;

use rayon::ThreadPool;

pub use blocks::{Blocks, chunks, chunks_mut, numbers, pieces_mut};
pub use documents::Rectangle;
pub use element::Element;
pub use simd::{GemmElement, Level, UnknownLevel};
use team::Team;

/// One CPU device. Cheap to share, made once per process (tests make several).
pub struct Cpu {
    /// The instruction set that every op on this device uses.
    pub level: Level,
    /// Runs the ops.
    team: Team,
    /// Runs what is done once: loading, tokenising, packing. Made when it is first needed.
    pool: OnceLock<ThreadPool>,
}

impl Cpu {
    /// A device with `threads` threads and the best instruction set that this machine has. 0: as many as
    /// may run at once, which an affinity mask and a control group's quota limit: one in
    /// `taskset -c 0 dayrun ...`, four in a container that may use four processors' time.
    pub fn new(threads: usize) -> Self {
        Self::with_level(Level::detect(), threads)
    }

    /// A device with a given instruction set.
    pub fn with_level(level: Level, threads: usize) -> Self {
        let available = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { available() } else { threads };
        Self { level, team: Team::new(threads), pool: OnceLock::new() }
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.team.threads()
    }

    /// Runs `f(task)` once for each of `0..tasks`, on all threads, and returns when all are done.
    /// Inside a task it runs them one after another. Allocates nothing.
    pub fn each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        self.team.each(tasks, f);
    }

    /// Runs `f` once on each block of slices that are cut side by side, on all threads:
    /// `cpu.blocks((chunks(x, 64), chunks_mut(y, 64)), |(x, y)| ...)`.
    pub fn blocks<B: Blocks>(&self, blocks: B, f: impl Fn(B::Block) + Sync) {
        let count = blocks.count();
        // SAFETY: each task is run once, and has its own block.
        self.team.each(count, |i| f(unsafe { blocks.block(i) }));
    }

    /// Runs `f` once on every thread: for what each thread keeps of its own. Not inside a task.
    pub fn broadcast(&self, f: impl Fn() + Sync) {
        self.team.everyone(f);
    }

    /// Runs `f` in a pool of rayon's with as many threads: for what is done once, outside the step.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        let pool = self.pool.get_or_init(|| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(self.threads())
                .thread_name(|i| format!("dayrun-load-{i}"))
                .build()
                .expect("starting the thread pool")
        });
        pool.install(f)
    }

    /// A name for run records: `cpu (avx512bf16)`.
    pub fn name(&self) -> String {
        format!("cpu ({})", self.level.name())
    }
}
