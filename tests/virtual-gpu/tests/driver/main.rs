//! The CUDA driver as programs see it, through cudarc and the raw interface, each test in a child process.

mod capture;
mod common;
mod context;
mod device;
mod entry;
mod faults;
mod graphs;
mod launch;
mod linker;
mod memory;
mod misuse;
mod modules;
mod streams;
