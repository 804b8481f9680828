//! A virtual GPU: a software CUDA driver that runs real PTX on any machine, and watches it.
//!
//! Built as a `cdylib` it is a `libcuda.so` (see `run`); as a library it is the same machine without
//! the driver's C interface, for tests that want a kernel's values and findings at first hand.

pub mod machine;
pub mod memory;
pub mod options;
pub mod ptx;
pub mod run;
pub mod watch;

pub use options::{Options, Watch};
pub use run::{RunError, command, library, run};
