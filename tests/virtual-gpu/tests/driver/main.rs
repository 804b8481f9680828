//! The CUDA driver as programs see it, through cudarc and the raw interface, each test in a child process.

mod common;
mod context;
mod device;
mod faults;
mod launch;
mod memory;
mod streams;
