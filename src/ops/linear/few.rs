//! The forward for few rows (generation): the weight's rows are read, or decoded in registers, once.

use half::bf16;

use super::cpu::with_scales;
use super::{LowRank, Weight};
use crate::device::cpu::gemm::{Out, as_few, few};
use crate::device::cpu::simd::dot::{Sums, add_bf16, add_nf4};
use crate::device::cpu::{Cpu, GemmElement};
use crate::quant::nf4::BLOCK;

/// y = x·Wᵀ + V·Bᵀ (+ bias) with the bits of the tile GEMM; false where this is not the way, and nothing is done.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &[E],
    w: Weight<'_>,
    lora: Option<LowRank<'_, E>>,
    bias: Option<&[bf16]>,
    y: &mut [E],
) -> bool {
    let (level, (n, k)) = (cpu.level, w.shape());
    let fits = match w {
        Weight::Nf4(_) => k.is_multiple_of(BLOCK),
        Weight::Bf16(_) => true,
        Weight::F32(_) => false,
    };
    let x = as_few(cpu, m, x, k, k).filter(|_| fits);
    let adapter = match lora {
        None => None,
        Some(LowRank { left, ld, r, right }) => {
            let Some(left) = as_few(cpu, m, left, ld, r) else { return false };
            Some((left, r, bytemuck::cast_slice(right)))
        }
    };
    let Some(x) = x else { return false };
    let out = Out { data: y, ld: n, scale: 1.0 };
    few(cpu, m, n, out, |row, rows, sums: &mut Sums| {
        match w {
            Weight::Nf4(w) => {
                let nf4 = with_scales(w, |first, out: &mut [f32]| w.absmax.copy(first, out));
                add_nf4(level, &nf4, row, rows, x, sums);
            }
            Weight::Bf16(w) => add_bf16(level, w.data, k, row, rows, x, sums),
            Weight::F32(_) => {}
        }
        if let Some((left, r, right)) = adapter {
            add_bf16(level, right, r, row, rows, left, sums);
        }
        if let Some(bias) = bias {
            for sums in &mut sums[..m] {
                for (sum, x) in sums.iter_mut().zip(&bias[row..row + rows]) {
                    *sum += x.to_f32();
                }
            }
        }
    });
    true
}
