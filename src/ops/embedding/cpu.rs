//! Embedding on the CPU: a copy that widens, in blocks of rows.

use half::bf16;

use crate::device::cpu::{Cpu, Element, chunks, chunks_mut};

/// Tokens in one block of work.
const ROWS: usize = 16;

pub fn forward<E: Element>(
    cpu: &Cpu,
    tokens: &[u32],
    table: &[bf16],
    hidden: usize,
    out: &mut [E],
) {
    cpu.blocks((chunks_mut(out, ROWS * hidden), chunks(tokens, ROWS)), |(out, tokens)| {
        cpu.level.vectorize(|| {
            for (out, &token) in out.chunks_exact_mut(hidden).zip(tokens) {
                let row = &table[token as usize * hidden..][..hidden];
                for (out, value) in out.iter_mut().zip(row) {
                    *out = E::from_f32(Element::to_f32(*value));
                }
            }
        })
    });
}
