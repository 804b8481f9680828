//! A virtual GPU: a software CUDA driver that runs real PTX on any machine, and watches it.
//!
//! Built as a `cdylib` it is a `libcuda.so` (see `run`); as a library it is the same machine without
//! the driver's C interface, for tests that want a kernel's values and findings at first hand.

mod driver;
pub mod fatbin;
pub mod gpu;
mod load;
pub mod machine;
pub mod memory;
pub mod module;
pub mod options;
pub mod ptx;
pub mod run;
pub mod watch;

pub use gpu::{Gpu, LaunchConfig, LaunchError, Outcome};
pub use module::{Kernel, LoadError, Module};
pub use options::{Options, OptionsError, Watch};
pub use run::{RunError, command, is_built, library, run, run_with};
pub use watch::{Finding, Kind, Place};
