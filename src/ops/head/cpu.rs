//! The CPU path: the tile GEMM over bf16 weights, widened in packing when activations are f32.

use std::ops::Range;

use half::bf16;

use crate::device::cpu::gemm::{Long, Out, Term, as_few, few, gemm, gemm_long};
use crate::device::cpu::simd::dot::add_bf16;
use crate::device::cpu::simd::prefetch::Source;
use crate::device::cpu::{Cpu, GemmElement};

pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    h: &[E],
    w: &[bf16],
    logits: &mut [f32],
) {
    let vocab = w.len() / hidden;
    if let Some(h) = as_few(cpu, m, h, hidden, hidden) {
        let out = Out { data: logits, ld: vocab, scale: 1.0 };
        return few(cpu, m, vocab, out, |row, rows, sums| {
            add_bf16(cpu.level, w, hidden, row, rows, h, sums);
        });
    }
    let pack = |columns: Range<usize>, panel: &mut [E]| {
        E::pack_nt_bf16(cpu.level, w, hidden, columns.start, columns.len(), hidden, panel);
    };
    let source = Source::Rows { data: bytemuck::cast_slice(w), pitch: 2 * hidden };
    let term = Term { a: h, lda: hidden, k: hidden, pack: &pack, source };
    gemm(cpu, m, vocab, &[term], Out { data: logits, ld: vocab, scale: 1.0 });
}

/// The contraction runs over the vocabulary, a hundred times what a panel in L2 has rows for.
pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    dlogits: &[E],
    w: &[bf16],
    dh: &mut [E],
) {
    let vocab = w.len() / hidden;
    let pack = |rows: Range<usize>, columns: Range<usize>, panel: &mut [E]| {
        let w = &w[rows.start * hidden..rows.end * hidden];
        E::pack_nn_bf16(cpu.level, w, hidden, rows.len(), columns.start, columns.len(), panel);
    };
    let source = Source::Columns { data: bytemuck::cast_slice(w), pitch: 2 * hidden, bits: 16 };
    let product = Long { a: dlogits, lda: vocab, k: vocab, pack: &pack, source };
    gemm_long(cpu, m, hidden, &product, Out { data: dh, ld: hidden, scale: 1.0 });
}
