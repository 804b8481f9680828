//! The CPU path: one tile GEMM with the adapter matrix packed.

use std::ops::Range;

use super::Dims;
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::simd::prefetch::Source;
use crate::device::cpu::{Cpu, GemmElement};

pub fn forward<E: GemmElement>(cpu: &Cpu, dims: Dims, scale: f32, x: &[E], a: &[E], v: &mut [E]) {
    let Dims { m, width, r, ld } = dims;
    let pack = |columns: Range<usize>, panel: &mut [E]| {
        E::pack_nt(cpu.level, a, width, columns.start, columns.len(), width, panel);
    };
    let term = Term { a: x, lda: width, k: width, pack: &pack, source: Source::Cached };
    gemm(cpu, m, r, &[term], Out { data: v, ld, scale });
}

pub fn backward<E: GemmElement>(cpu: &Cpu, dims: Dims, scale: f32, dy: &[E], b: &[E], u: &mut [E]) {
    let Dims { m, width, r, ld } = dims;
    let pack = |columns: Range<usize>, panel: &mut [E]| {
        E::pack_nn(cpu.level, b, r, width, columns.start, columns.len(), panel);
    };
    let term = Term { a: dy, lda: width, k: width, pack: &pack, source: Source::Cached };
    gemm(cpu, m, r, &[term], Out { data: u, ld, scale });
}
