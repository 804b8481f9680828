//! The shadow of global memory: which thread of which block last wrote and read each word of a launch.

/// The watchman's memory of device memory; shared by the threads that run blocks.
#[derive(Debug, Default)]
pub struct Shadow {}
