//! A warp: 32 lanes, their registers, and the strands that they run in.

use super::memory::Pending;
use super::registers::{FULL, LANES, Lanes};
use super::strand::Strand;

/// A thread at an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    pub block: [u32; 3],
    pub thread: [u32; 3],
    pub pc: u32,
}

/// What a warp keeps between instructions.
#[derive(Debug, Default)]
pub struct State {
    /// Number in its block.
    pub index: u32,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Lanes that exist.
    pub born: u32,
    pub strands: Vec<Strand>,
    /// The next turn goes to the strand that has waited longest.
    pub rotate: bool,
    /// The clock when such a turn was last given, or a strand was alone.
    pub turned: u64,
    /// A thread sleeps: let other warps run.
    pub pause: bool,
    pub slots: Vec<Lanes>,
    pub predicates: Vec<u32>,
    pub local: Local,
    /// The asynchronous copies of every lane that were not waited for yet.
    pub pending: Pending,
    /// Warp instructions executed: `%clock`.
    pub cycles: u64,
    /// Offset of the running frame in every lane's local memory: what `Symbol::Local` is relative to.
    pub local_base: u32,
}

impl State {
    /// A warp at the start of a kernel, with what it had allocated before.
    pub fn begin(&mut self, index: u32, threads: u32, local_bytes: u32) {
        let first = index * LANES as u32;
        self.index = index;
        self.born = FULL >> (LANES as u32 - (threads - first).min(LANES as u32));
        self.live = self.born;
        self.slots.fill(Lanes([0; LANES]));
        self.predicates.fill(0);
        self.strands.clear();
        self.strands.push(Strand::new(self.born));
        (self.rotate, self.pause) = (false, false);
        self.local.grow(local_bytes);
        self.pending = Pending::default();
        (self.cycles, self.turned) = (0, 0);
        self.local_base = 0;
    }

    /// Index in its block of the thread in a lane, x y z.
    pub fn thread(&self, lane: usize, block_dim: [u32; 3]) -> [u32; 3] {
        let linear = self.index * LANES as u32 + lane as u32;
        let [x, y, _] = block_dim;
        [linear % x, linear / x % y, linear / (x * y)]
    }
}

/// Bytes of a lane's local memory that lie together.
pub const LOCAL_CHUNK: usize = 16;

/// Local memory: 16-byte chunks, the 32 lanes' chunks of the same address side by side.
#[derive(Debug, Default)]
pub struct Local {
    chunks: Vec<[[u8; LOCAL_CHUNK]; LANES]>,
}

impl Local {
    /// Makes every lane's local memory at least this large.
    pub fn grow(&mut self, bytes: u32) {
        let chunks = (bytes as usize).div_ceil(LOCAL_CHUNK);
        if self.chunks.len() < chunks {
            self.chunks.resize(chunks, [[0; LOCAL_CHUNK]; LANES]);
        }
    }

    /// Bytes of each lane.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * LOCAL_CHUNK) as u64
    }

    /// Bytes that do not cross a 16-byte boundary: an aligned access of up to 16.
    pub fn get(&self, lane: usize, at: u32, bytes: u32) -> Option<&[u8]> {
        let (chunk, start) = (at as usize / LOCAL_CHUNK, at as usize % LOCAL_CHUNK);
        self.chunks.get(chunk)?[lane].get(start..start + bytes as usize)
    }

    pub fn get_mut(&mut self, lane: usize, at: u32, bytes: u32) -> Option<&mut [u8]> {
        let (chunk, start) = (at as usize / LOCAL_CHUNK, at as usize % LOCAL_CHUNK);
        self.chunks.get_mut(chunk)?[lane].get_mut(start..start + bytes as usize)
    }

    /// Copies of any length and alignment, for the parameters of calls.
    pub fn copy(&mut self, lane: usize, from: u32, to: u32, bytes: u32) {
        for i in 0..bytes {
            let byte = self.get(lane, from + i, 1).map_or(0, |b| b[0]);
            if let Some(b) = self.get_mut(lane, to + i, 1) {
                b[0] = byte;
            }
        }
    }
}
