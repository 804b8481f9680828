//! Independent chains of products, to measure what the multipliers can do.

use super::Level;

/// Chains: more than latency times throughput asks for, few enough to stay in registers.
pub const CHAINS: usize = 24;

/// Runs `rounds` rounds of [`CHAINS`] independent products of bf16 (f32 where the level has no
/// bf16 product). Returns the number of scalar multiply-adds that were done.
pub fn multiply_chains(level: Level, rounds: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if level.is_avx512bf16() {
        // SAFETY: this level exists only where the CPU has these features.
        unsafe { super::avx512bf16::multiply_chains::<CHAINS>(rounds) };
        return rounds * CHAINS * 32;
    }
    let _ = level;
    const LANES: usize = 4;
    let mut acc = [[0.0f32; LANES]; CHAINS];
    let (a, b) = (std::hint::black_box([1.0f32; LANES]), std::hint::black_box([0.5f32; LANES]));
    for _ in 0..rounds {
        for acc in &mut acc {
            for l in 0..LANES {
                acc[l] += a[l] * b[l];
            }
        }
    }
    std::hint::black_box(acc);
    rounds * CHAINS * LANES
}
