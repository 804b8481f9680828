//! The CPU path: transpose the narrow operand, one tile GEMM over m, add.

use std::ops::Range;

use super::{Left, Part};
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::simd::prefetch::Source;
use crate::device::cpu::{Cpu, GemmElement, chunks, chunks_mut, numbers};

/// Elements of dA, and rows of dB, that one task adds.
const ELEMENTS: usize = 4096;
const ROWS: usize = 256;

/// dA += Uᵀ·x.
pub fn down<E: GemmElement>(
    cpu: &Cpu,
    n: usize,
    left: Left<'_, E>,
    x: &[E],
    parts: impl Iterator<Item = Part>,
    grads: &mut [f32],
) {
    let product = product(cpu, n, left, x);
    for Part { column, r, offset } in parts {
        let (grads, product) = (&mut grads[offset..], &product[column * n..]);
        let blocks =
            (chunks_mut(&mut grads[..r * n], ELEMENTS), chunks(&product[..r * n], ELEMENTS));
        cpu.blocks(blocks, |(grads, product)| {
            cpu.level.vectorize(|| grads.iter_mut().zip(product).for_each(|(grad, x)| *grad += x));
        });
    }
}

/// dB += (Vᵀ·dy)ᵀ.
pub fn up<E: GemmElement>(
    cpu: &Cpu,
    n: usize,
    left: Left<'_, E>,
    dy: &[E],
    parts: impl Iterator<Item = Part>,
    grads: &mut [f32],
) {
    let product = product(cpu, n, left, dy);
    for Part { column, r, offset } in parts {
        let product = &product[column * n..][..r * n];
        let grads = &mut grads[offset..][..r * n];
        let blocks = (numbers(n.div_ceil(ROWS)), chunks_mut(grads, ROWS * r));
        cpu.blocks(blocks, |(block, grads)| {
            for (i, row) in grads.chunks_exact_mut(r).enumerate() {
                let column = product.iter().skip(block * ROWS + i).step_by(n);
                row.iter_mut().zip(column).for_each(|(grad, x)| *grad += x);
            }
        });
    }
}

/// `leftᵀ · right`, `[columns, n]`.
fn product<'a, E: GemmElement>(cpu: &Cpu, n: usize, left: Left<'a, E>, right: &[E]) -> &'a [f32] {
    let Left { data, ld, columns, stack, product } = left;
    let m = right.len() / n;
    transpose(cpu, m, ld, data, stack);
    let pack = |columns: Range<usize>, panel: &mut [E]| {
        E::pack_nn(cpu.level, right, n, m, columns.start, columns.len(), panel);
    };
    let term = Term { a: stack, lda: m, k: m, pack: &pack, source: Source::Cached };
    gemm(cpu, columns, n, &[term], Out { data: &mut *product, ld: n, scale: 1.0 });
    product
}

/// `stack[c, t] = data[t·ld + c]`.
fn transpose<E: GemmElement>(cpu: &Cpu, m: usize, ld: usize, data: &[E], stack: &mut [E]) {
    const AT_ONCE: usize = 8;
    let count = stack.len().div_ceil(m * AT_ONCE);
    cpu.blocks((numbers(count), chunks_mut(stack, m * AT_ONCE)), |(block, out)| {
        for (c, out) in out.chunks_exact_mut(m).enumerate() {
            let source = data.iter().skip(block * AT_ONCE + c).step_by(ld);
            out.iter_mut().zip(source).for_each(|(out, x)| *out = *x);
        }
    });
}
