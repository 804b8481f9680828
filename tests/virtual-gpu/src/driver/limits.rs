//! What a multiprocessor of each compute capability holds, and how many blocks fit on it.
//!
//! Numbers: CUDA C++ Programming Guide, "Compute Capabilities", tables of features and technical
//! specifications; the caches, clocks and buses are those of a known card of the architecture (T4, A100,
//! RTX 3090, RTX 4090, H100, RTX 5090).

use super::error::{Error, Result};

/// Registers that a thread can have.
pub const REGISTERS_PER_THREAD: u32 = 255;
/// Registers of a multiprocessor, and of a block.
pub const REGISTERS: u32 = 64 * 1024;
/// Registers are given to a warp in units of so many.
const REGISTER_UNIT: u32 = 256;
/// Shared memory is given to a block in units of so many bytes.
const SHARED_UNIT: u32 = 128;
/// Shared memory that the system takes of every block, in bytes.
pub const SHARED_RESERVED: u32 = 1024;
/// Shared memory that a block can have without asking for more, in bytes.
pub const SHARED_PER_BLOCK: u32 = 48 * 1024;
pub const THREADS_PER_BLOCK: u32 = 1024;
pub const WARP: u32 = 32;

/// One architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub compute_capability: (u32, u32),
    pub threads_per_multiprocessor: u32,
    pub blocks_per_multiprocessor: u32,
    /// Bytes.
    pub shared_per_multiprocessor: u32,
    /// Bytes of L2.
    pub l2: u32,
    /// Of the multiprocessors, in kHz.
    pub clock: u32,
    /// Of the memory, in kHz.
    pub memory_clock: u32,
    /// Bits.
    pub memory_bus: u32,
    /// How many times faster f32 is than f64.
    pub single_to_double: u32,
}

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

#[rustfmt::skip]
const LIMITS: [Limits; 6] = [
    // Its blocks can have all of the shared memory; here they get what later architectures leave them.
    Limits { compute_capability: (7, 5), threads_per_multiprocessor: 1024, blocks_per_multiprocessor: 16, shared_per_multiprocessor: 64 * KIB, l2: 4 * MIB, clock: 1_590_000, memory_clock: 5_001_000, memory_bus: 256, single_to_double: 32 },
    Limits { compute_capability: (8, 0), threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, shared_per_multiprocessor: 164 * KIB, l2: 40 * MIB, clock: 1_410_000, memory_clock: 1_215_000, memory_bus: 5120, single_to_double: 2 },
    Limits { compute_capability: (8, 6), threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 16, shared_per_multiprocessor: 100 * KIB, l2: 6 * MIB, clock: 1_695_000, memory_clock: 9_751_000, memory_bus: 384, single_to_double: 32 },
    Limits { compute_capability: (8, 9), threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 24, shared_per_multiprocessor: 100 * KIB, l2: 72 * MIB, clock: 2_520_000, memory_clock: 10_501_000, memory_bus: 384, single_to_double: 64 },
    Limits { compute_capability: (9, 0), threads_per_multiprocessor: 2048, blocks_per_multiprocessor: 32, shared_per_multiprocessor: 228 * KIB, l2: 50 * MIB, clock: 1_980_000, memory_clock: 2_619_000, memory_bus: 5120, single_to_double: 2 },
    Limits { compute_capability: (12, 0), threads_per_multiprocessor: 1536, blocks_per_multiprocessor: 24, shared_per_multiprocessor: 100 * KIB, l2: 96 * MIB, clock: 2_407_000, memory_clock: 14_001_000, memory_bus: 512, single_to_double: 64 },
];

impl Limits {
    /// Those of a compute capability; of the nearest lower one that is known.
    pub fn of(compute_capability: (u32, u32)) -> &'static Limits {
        LIMITS
            .iter()
            .rev()
            .find(|limits| limits.compute_capability <= compute_capability)
            .unwrap_or(&LIMITS[0])
    }

    /// Shared memory that a block can have when its kernel asks for it, in bytes.
    pub fn shared_per_block_opt_in(&self) -> u32 {
        self.shared_per_multiprocessor - SHARED_RESERVED
    }

    /// How many blocks of `threads` threads are on a multiprocessor at a time.
    ///
    /// The least of what its slots for blocks, its threads, its registers and its shared memory allow.
    ///
    /// # Errors
    /// `InvalidValue` for a block that no multiprocessor takes: of 0 or over 1,024 threads.
    pub fn resident_blocks(&self, threads: u32, registers: u32, shared: u32) -> Result<u32> {
        if threads == 0 || threads > THREADS_PER_BLOCK {
            return Err(Error::InvalidValue);
        }
        let warps = threads.div_ceil(WARP);
        let by_threads = self.threads_per_multiprocessor / WARP / warps;
        let per_warp = (registers.max(1) * WARP).next_multiple_of(REGISTER_UNIT);
        let by_registers = (REGISTERS / per_warp) / 4 * 4 / warps;
        let shared = shared.saturating_add(SHARED_RESERVED).next_multiple_of(SHARED_UNIT);
        let by_shared = self.shared_per_multiprocessor / shared;
        Ok(self.blocks_per_multiprocessor.min(by_threads).min(by_registers).min(by_shared))
    }

    /// The most dynamic shared memory with which `blocks` blocks are still on a multiprocessor together.
    pub fn dynamic_shared_for(&self, blocks: u32, static_shared: u32) -> u32 {
        let each = self.shared_per_multiprocessor / blocks.max(1) / SHARED_UNIT * SHARED_UNIT;
        let own = each.saturating_sub(SHARED_RESERVED + static_shared);
        own.min(self.shared_per_block_opt_in().saturating_sub(static_shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the occupancy calculator's public formula by hand.
    #[test]
    fn occupancy() {
        let a100 = Limits::of((8, 0));
        // 256 threads of 32 registers: 8 warps of 1,024 registers; 64 warps are 8 blocks.
        assert_eq!(a100.resident_blocks(256, 32, 0), Ok(8));
        // 255 registers: 8,192 a warp (255 * 32 up to 256s), 8 warps in 64 Ki: one block of 8.
        assert_eq!(a100.resident_blocks(256, 255, 0), Ok(1));
        // 48 KiB and the reserved one: 49 KiB, thrice in 164.
        assert_eq!(a100.resident_blocks(128, 32, 48 * KIB), Ok(3));
        // Single warps: the 32 slots.
        assert_eq!(a100.resident_blocks(32, 16, 0), Ok(32));
        assert_eq!(a100.resident_blocks(0, 16, 0), Err(Error::InvalidValue));
        assert_eq!(a100.resident_blocks(1025, 16, 0), Err(Error::InvalidValue));
        let ada = Limits::of((8, 9));
        // 1,024 threads: 32 of 48 warps.
        assert_eq!(ada.resident_blocks(1024, 32, 0), Ok(1));
        assert_eq!(ada.resident_blocks(512, 32, 0), Ok(3));
        assert_eq!(ada.resident_blocks(128, 32, 99 * KIB), Ok(1));
        assert_eq!(ada.resident_blocks(128, 32, 100 * KIB), Ok(0));
    }

    #[test]
    fn the_shared_memory_of_so_many_blocks_fits() {
        for limits in &LIMITS {
            for blocks in 1..=limits.blocks_per_multiprocessor {
                let dynamic = limits.dynamic_shared_for(blocks, 256);
                let fits = limits.resident_blocks(32, 16, 256 + dynamic).unwrap();
                assert!(fits >= blocks, "{blocks} blocks of {dynamic} bytes: {fits} fit");
            }
        }
    }
}
