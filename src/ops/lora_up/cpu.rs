//! The CPU path: one tile GEMM with A packed.

use std::ops::Range;

use super::Dims;
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::simd::prefetch::Source;
use crate::device::cpu::{Cpu, GemmElement};

pub fn forward<E: GemmElement>(cpu: &Cpu, dims: Dims, u: &[E], a: &[E], t: &mut [E]) {
    let Dims { m, width, r, ld } = dims;
    let pack = |columns: Range<usize>, panel: &mut [E]| {
        E::pack_nn(cpu.level, a, width, r, columns.start, columns.len(), panel);
    };
    let term = Term { a: u, lda: ld, k: r, pack: &pack, source: Source::Cached };
    gemm(cpu, m, width, &[term], Out { data: t, ld: width, scale: 1.0 });
}
