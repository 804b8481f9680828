//! A block of threads: its warps, its shared memory, its barriers.

use super::registers::Lanes;
use super::warp;
use crate::watch::race::BlockWatch;

/// Shared memory and what else the warps of a block have in common.
#[derive(Debug, Default)]
pub struct State {
    /// Place in the grid, x y z.
    pub index: [u32; 3],
    /// Number in the grid: x fastest.
    pub linear: u64,
    /// The block's shared memory, 128-byte aligned (every `Lanes` is 128 bytes of it).
    pub shared: Vec<Lanes>,
    pub watch: BlockWatch,
    /// The 16 named barriers.
    pub barriers: [Barrier; 16],
}

/// Who waits at a barrier.
#[derive(Debug, Default, Clone, Copy)]
pub struct Barrier {
    /// Threads that have arrived, of `expected`.
    pub arrived: u32,
}

impl State {
    /// The bytes of shared memory.
    pub fn shared_bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.shared)
    }
}

/// A block in flight.
#[derive(Default)]
pub struct Block {
    pub state: State,
    pub warps: Vec<warp::State>,
}
