//! The CPU as a device: an instruction set chosen once, and a pool of threads.
//!
//! Work is cut by shape, never by the number of threads, so 1, 2 or 16 threads give the same
//! bits. The instruction set is part of the device: another one may round differently.

pub mod element;
pub mod gemm;
pub mod peak;
pub mod simd;

use rayon::ThreadPool;

pub use element::Element;
pub use simd::{GemmElement, Level, UnknownLevel};

/// One CPU device. Cheap to share, made once per process (tests make several).
pub struct Cpu {
    /// The instruction set that every op on this device uses.
    pub level: Level,
    pool: ThreadPool,
}

impl Cpu {
    /// A device with `threads` threads (0: one per available core) and the best instruction set
    /// that this machine has.
    pub fn new(threads: usize) -> Self {
        Self::with_level(Level::detect(), threads)
    }

    /// A device with a given instruction set.
    pub fn with_level(level: Level, threads: usize) -> Self {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("dayrun-{i}"))
            .build()
            .expect("starting the thread pool");
        Self { level, pool }
    }

    /// Number of threads in the pool.
    pub fn threads(&self) -> usize {
        self.pool.current_num_threads()
    }

    /// Runs `f` inside the pool: rayon iterators in it use this device's threads.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.pool.install(f)
    }

    /// Runs `f` once on every thread of the pool: for what each thread keeps of its own.
    pub fn broadcast(&self, f: impl Fn() + Sync) {
        self.pool.broadcast(|_| f());
    }

    /// A name for run records: `cpu (avx512bf16)`.
    pub fn name(&self) -> String {
        format!("cpu ({})", self.level.name())
    }
}
