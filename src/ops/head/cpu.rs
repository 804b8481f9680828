//! The CPU path: the tile GEMM over bf16 weights, widened in packing when activations are f32.

use half::bf16;

use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::{Cpu, GemmElement};

pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    vocab: usize,
    h: &[E],
    w: &[bf16],
    logits: &mut [f32],
) {
    let pack = |column: usize, columns: usize, panel: &mut [E]| {
        E::pack_nt_bf16(cpu.level, w, hidden, column, columns, hidden, panel);
    };
    let term = Term { a: h, lda: hidden, k: hidden, pack: &pack };
    gemm(cpu, m, vocab, &[term], Out { data: logits, ld: vocab, scale: 1.0 });
}

pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    vocab: usize,
    dlogits: &[E],
    w: &[bf16],
    dh: &mut [E],
) {
    let pack = |column: usize, columns: usize, panel: &mut [E]| {
        E::pack_nn_bf16(cpu.level, w, hidden, vocab, column, columns, panel);
    };
    let term = Term { a: dlogits, lda: vocab, k: vocab, pack: &pack };
    gemm(cpu, m, hidden, &[term], Out { data: dh, ld: hidden, scale: 1.0 });
}
