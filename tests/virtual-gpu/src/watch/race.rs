//! Who touched which byte since the last barrier: races, unwaited copies, unwritten shared memory.

use crate::machine::Grid;
use crate::machine::registers::W64;

/// One access of a warp, as `machine/memory` tells it before it is carried out.
pub struct Access<'a> {
    /// Number of the warp in its block.
    pub warp: u32,
    /// Lanes that access.
    pub mask: u32,
    /// Offsets in the block's shared memory, or global addresses, lane by lane.
    pub addresses: &'a W64,
    /// Bytes that each lane touches.
    pub bytes: u32,
    pub how: How,
    /// Volatile, relaxed, acquire, release or atomic: two such accesses never race with each other.
    pub strong: bool,
    /// Of a plain write the lanes that find in memory what they write (before any lane has written):
    /// no race between equal writes. 0 for anything else.
    pub unchanged: u32,
    /// Of a plain write what it writes, lane after lane, `bytes` each, 32 lanes. Empty for anything else.
    pub values: &'a [u8],
    /// Index of the instruction.
    pub pc: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    Read,
    Write,
    /// Reads and writes at once.
    Atomic,
    /// The write of an asynchronous copy, which happens some time before its group is waited for.
    AsyncWrite,
}

/// What the watchman knows of the running block.
#[derive(Debug, Default)]
pub struct BlockWatch {}

impl BlockWatch {
    /// A new block starts with unwritten shared memory and nothing touched.
    pub fn begin(&mut self, _grid: &Grid, _block: [u32; 3]) {}

    /// A barrier was completed by these warps (bit w of `warps`): what they did before it is ordered
    /// before what they do after it.
    pub fn barrier(&mut self, _warps: u32) {}

    /// `bar.warp.sync` ordered these lanes of a warp.
    pub fn warp_sync(&mut self, _warp: u32, _lanes: u32) {}

    /// A fence (`fence`, `membar`) of device or system scope by these lanes. An access with release
    /// semantics calls it before the access.
    pub fn fence(&mut self, _warp: u32, _lanes: u32) {}

    /// An access to shared memory, within its bounds. What is wrong with it goes to the grid's log.
    pub fn shared(&mut self, _grid: &Grid, _access: &Access) {}

    /// An access to global memory, within an allocation. What is wrong with it goes to the grid's log.
    pub fn global(&mut self, _grid: &Grid, _access: &Access) {}

    /// The asynchronous writes of these bytes by this thread are complete and visible to it.
    pub fn async_done(&mut self, _warp: u32, _lane: usize, _offset: u32, _bytes: u32) {}
}
