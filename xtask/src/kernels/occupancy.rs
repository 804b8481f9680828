//! How many blocks of a kernel a multiprocessor holds at a time.
//!
//! Source: CUDA C++ Programming Guide, "Compute Capabilities", tables of technical specifications.

/// What a multiprocessor of an architecture holds.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// For ptxas.
    pub name: &'static str,
    /// A card that has it.
    pub card: &'static str,
    pub warps: u32,
    pub blocks: u32,
    /// Bytes of shared memory.
    pub shared: u32,
}

const KIB: u32 = 1024;

/// The architectures that the page tells of.
#[rustfmt::skip]
pub const ARCHITECTURES: [Architecture; 5] = [
    Architecture { name: "sm_80", card: "A100", warps: 64, blocks: 32, shared: 164 * KIB },
    Architecture { name: "sm_86", card: "RTX 3090", warps: 48, blocks: 16, shared: 100 * KIB },
    Architecture { name: "sm_89", card: "RTX 4090", warps: 48, blocks: 24, shared: 100 * KIB },
    Architecture { name: "sm_90", card: "H100", warps: 64, blocks: 32, shared: 228 * KIB },
    Architecture { name: "sm_120", card: "RTX 5090", warps: 48, blocks: 24, shared: 100 * KIB },
];

/// Registers of a multiprocessor of all of them.
pub const REGISTERS: u32 = 64 * KIB;
/// Shared memory that the system takes of every block.
pub const RESERVED: u32 = KIB;
/// Registers are given to a warp, shared memory to a block, in such units.
const REGISTER_UNIT: u32 = 256;
const SHARED_UNIT: u32 = 128;

impl Architecture {
    /// Blocks on a multiprocessor, and what there is too little of for one more.
    pub fn blocks_of(&self, threads: u32, registers: u32, shared: u32) -> (u32, &'static str) {
        let warps = threads.div_ceil(32).max(1);
        let per_warp = (registers.max(1) * 32).next_multiple_of(REGISTER_UNIT);
        let per_block = (shared + RESERVED).next_multiple_of(SHARED_UNIT);
        // Of equals the first is told, so that a full multiprocessor is one. A quarter of the registers belongs to
        // each of four schedulers, which share out warps evenly.
        let limits = [
            (self.warps / warps, "warps"),
            (self.blocks, "blocks"),
            (REGISTERS / per_warp / 4 * 4 / warps, "registers"),
            (self.shared / per_block, "shared memory"),
        ];
        limits.into_iter().min_by_key(|limit| limit.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand.
    #[test]
    fn the_scarcest_thing_decides() {
        let [a100, .., rtx] = &ARCHITECTURES;
        // 8 warps of 1,024 registers each; 64 warps are 8 blocks.
        assert_eq!(a100.blocks_of(256, 32, 0), (8, "warps"));
        assert_eq!(a100.blocks_of(256, 33, 0), (6, "registers"));
        // 8,192 registers a warp: one block of 8 warps.
        assert_eq!(a100.blocks_of(256, 255, 0), (1, "registers"));
        // 49 KiB, thrice in 164, twice in 100.
        assert_eq!(a100.blocks_of(128, 32, 48 * KIB), (3, "shared memory"));
        assert_eq!(rtx.blocks_of(128, 32, 48 * KIB), (2, "shared memory"));
        assert_eq!(rtx.blocks_of(128, 32, 100 * KIB), (0, "shared memory"));
        assert_eq!(a100.blocks_of(32, 16, 0), (32, "blocks"));
    }
}
