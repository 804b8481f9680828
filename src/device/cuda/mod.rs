//! An NVIDIA GPU through the driver alone: memory, modules and launches, nothing that knows an op.
//!
//! The driver's library is loaded at run time if it is there. Everything runs on one stream of our
//! own, in the order in which it is asked for; cudarc's event tracking is not used. A fault in a kernel
//! shows at the next wait ([`Cuda::synchronize`], a download) and spoils the device for the process.

mod buffer;
mod device;
mod error;
mod launch;
mod mark;
mod memory;

pub use buffer::{Buf, View, ViewMut};
pub use device::{Cuda, Info};
pub use error::CudaError;
pub use launch::{Launch, Source};
pub use mark::Mark;
pub use memory::{ALIGN, Memory};
