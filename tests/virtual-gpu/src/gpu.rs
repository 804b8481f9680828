//! The device as a Rust object: memory, modules, launches. The driver's C interface is built on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::load;
use crate::machine::{Grid, launch};
use crate::memory::Memory;
use crate::module::{Kernel, LoadError, Module};
use crate::options::{Options, Watch};
use crate::watch::{Finding, Log};

/// A virtual GPU.
#[derive(Debug)]
pub struct Gpu {
    options: Options,
    memory: Arc<Memory>,
    launches: AtomicU64,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks, x y z.
    pub grid: [u32; 3],
    /// Threads of a block, x y z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// What a launch did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Warp instructions executed, all warps together (0 when a fault ended the launch).
    pub warp_instructions: u64,
    /// What the watchman found.
    pub findings: Vec<Finding>,
    /// The launch was ended by the first finding of a fatal kind.
    pub stopped: bool,
}

/// Why a launch was not begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error("launching {kernel}: a grid of {grid:?} blocks of {block:?} threads")]
    Shape { kernel: String, grid: [u32; 3], block: [u32; 3] },
    #[error("launching {kernel}: blocks of {block:?} threads, where it requires {required:?}")]
    RequiredThreads { kernel: String, block: [u32; 3], required: [u32; 3] },
    #[error("launching {kernel}: {threads} threads in a block, where it allows {most}")]
    TooManyThreads { kernel: String, threads: u64, most: u32 },
    #[error(
        "launching {kernel}: {bytes} bytes of shared memory in a block, where there are {most}"
    )]
    TooMuchShared { kernel: String, bytes: u64, most: u32 },
    #[error("launching {kernel}: {got} bytes of parameters, where it has {want}")]
    Params { kernel: String, got: usize, want: u32 },
}

impl Gpu {
    pub fn new(options: Options) -> Gpu {
        let memory = Arc::new(Memory::new(options.memory_bytes));
        Gpu { options, memory, launches: AtomicU64::new(0) }
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Loads PTX text.
    ///
    /// # Errors
    /// A text that cannot be parsed, or has what the machine does not know; the line is told.
    pub fn load(&self, ptx: &str) -> Result<Arc<Module>, LoadError> {
        load::load(ptx, &self.memory).map(Arc::new)
    }

    /// Bytes of shared memory that a block can have at most (after opting in).
    pub fn max_shared_bytes(&self) -> u32 {
        match self.options.compute_capability {
            (7, 5) => 63 << 10,
            (8, 0) => 163 << 10,
            (9, 0) => 227 << 10,
            _ => 99 << 10,
        }
    }

    /// Runs a kernel to its end. `params` are its parameters as `Kernel::params` lays them out.
    ///
    /// # Errors
    /// A shape or size that the device or the kernel does not allow. What goes wrong while the kernel
    /// runs is in the outcome.
    pub fn launch(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        params: &[u8],
    ) -> Result<Outcome, LaunchError> {
        self.check(kernel, config, params)?;
        let code = kernel.code();
        let shared_bytes = code.program.static_shared_bytes + config.shared_bytes;
        let log = Log::default();
        let grid = Grid {
            kernel: kernel.name(),
            program: &code.program,
            memory: &self.memory,
            params,
            grid_dim: config.grid,
            block_dim: config.block,
            shared_bytes,
            dynamic_shared_bytes: config.shared_bytes,
            launch: self.launches.fetch_add(1, Ordering::Relaxed) + 1,
            multiprocessors: self.options.multiprocessors.max(1),
            watched: self.options.watch != Watch::Off,
            log: &log,
        };
        let threads = config.block.iter().product::<u32>();
        let resident =
            u64::from(grid.multiprocessors) * u64::from((2048 / threads.max(1)).clamp(1, 32));
        let result = launch::run(&grid, self.options.threads, resident, self.options.seed);
        Ok(Outcome {
            warp_instructions: *result.as_ref().unwrap_or(&0),
            findings: log.take(),
            stopped: result.is_err(),
        })
    }

    fn check(
        &self,
        kernel: &Kernel,
        config: &LaunchConfig,
        params: &[u8],
    ) -> Result<(), LaunchError> {
        let (name, code) = (|| kernel.name().to_owned(), kernel.code());
        let LaunchConfig { grid, block, shared_bytes } = *config;
        let fits = |sizes: [u32; 3], most: [u32; 3]| {
            sizes.iter().zip(most).all(|(size, most)| *size >= 1 && *size <= most)
        };
        if !fits(grid, [i32::MAX as u32, 65535, 65535]) || !fits(block, [1024, 1024, 64]) {
            return Err(LaunchError::Shape { kernel: name(), grid, block });
        }
        if let Some(required) = code.required_threads
            && required != block
        {
            return Err(LaunchError::RequiredThreads { kernel: name(), block, required });
        }
        let threads = block.iter().map(|n| u64::from(*n)).product::<u64>();
        let most = kernel.max_threads();
        if threads > u64::from(most) {
            return Err(LaunchError::TooManyThreads { kernel: name(), threads, most });
        }
        let bytes = u64::from(code.program.static_shared_bytes) + u64::from(shared_bytes);
        let most = self.max_shared_bytes();
        if bytes > u64::from(most) {
            return Err(LaunchError::TooMuchShared { kernel: name(), bytes, most });
        }
        if params.len() != code.program.param_bytes as usize {
            let (got, want) = (params.len(), code.program.param_bytes);
            return Err(LaunchError::Params { kernel: name(), got, want });
        }
        Ok(())
    }
}
