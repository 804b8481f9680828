//! Chains of products, to measure what the multipliers can do.

use super::Level;

/// Runs `rounds` rounds of independent chains of the level's widest product: of tiles of bf16 or bf16 dot
/// products where it has them, else f32 multiply-adds. As many chains as the registers hold beside the
/// factors: 24 with AVX-512, 12 below, either more than latency times throughput asks for (10 at most), and
/// 4 of tiles, each 16 × 16 sums over 32 elements. Returns the number of scalar multiply-adds that were done.
pub fn multiply_chains(level: Level, rounds: usize) -> usize {
    // SAFETY: a level exists only where the CPU has its features.
    unsafe { on!(level, multiply_chains(rounds)) }
}
