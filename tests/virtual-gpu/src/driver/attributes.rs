//! What cuDeviceGetAttribute answers.
//!
//! Codes: CUDA driver API, CUdevice_attribute. What is not there (textures, virtual memory management,
//! clusters, sharing between processes) answers 0, so that programs which ask do without it.

use super::limits::{
    Limits, REGISTERS, SHARED_PER_BLOCK, SHARED_RESERVED, THREADS_PER_BLOCK, WARP,
};
use crate::options::Options;

/// The greatest code that a driver of today answers to.
const LAST: i32 = 150;

pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// The value of an attribute; `None` for a code that none has.
pub fn attribute(code: i32, options: &Options, limits: &Limits) -> Option<i32> {
    let (major, minor) = options.compute_capability;
    let value = match code {
        1 => THREADS_PER_BLOCK,
        2..=4 => MAX_BLOCK[code as usize - 2],
        5..=7 => MAX_GRID[code as usize - 5],
        // Shared memory per block, constant memory, warp, pitch, registers per block, clock.
        8 => SHARED_PER_BLOCK,
        9 => 64 * 1024,
        10 => WARP,
        11 => i32::MAX as u32,
        12 => REGISTERS,
        13 => limits.clock,
        // Alignment of textures and pitches: kept, since cuMemAllocPitch follows it.
        14 => 512,
        // Copies beside kernels.
        15 => 1,
        16 => options.multiprocessors,
        // Mapped host memory.
        19 => 1,
        30 => 512,
        // Kernels beside each other: streams may be many, though one kernel runs at a time.
        31 => 1,
        // PCI bus; device and domain are 0.
        33 => 1,
        36 => limits.memory_clock,
        37 => limits.memory_bus,
        38 => limits.l2,
        39 => limits.threads_per_multiprocessor,
        // Copy engines, unified addressing.
        40 => 2,
        41 => 1,
        51 => 32,
        75 => major,
        76 => minor,
        // Stream priorities, global and local L1.
        78..=80 => 1,
        81 => limits.shared_per_multiprocessor,
        82 => REGISTERS,
        // Managed memory.
        83 => 1,
        87 => limits.single_to_double,
        // Host and device reach managed memory at the same time; preemption; registered pointers are good
        // on both sides.
        89..=91 => 1,
        // Cooperative launch.
        95 => 1,
        97 => limits.shared_per_block_opt_in(),
        // Host memory can be registered.
        99 => 1,
        106 => limits.blocks_per_multiprocessor,
        111 => SHARED_RESERVED,
        113 => 1,
        // Stream-ordered allocation.
        115 => 1,
        // Memory synchronisation domains.
        126 => {
            if major >= 9 {
                4
            } else {
                1
            }
        }
        // Function pointers are the same on every device.
        129 => 1,
        _ if (1..=LAST).contains(&code) => 0,
        _ => return None,
    };
    // NUMA identity of host and device: -1 is "none".
    if code == 131 || code == 134 {
        return Some(-1);
    }
    Some(i32::try_from(value).unwrap_or(i32::MAX))
}
