//! Memory, mapped files and launches.

pub mod bytes;
pub mod cpu;
pub mod memory;
