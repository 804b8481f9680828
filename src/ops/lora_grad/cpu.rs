//! The CPU path: transpose the narrow operand, one tile GEMM over m, add.

use rayon::prelude::*;

use super::{Left, Part};
use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::{Cpu, GemmElement};

type Add = fn(product: &[f32], r: usize, n: usize, grads: &mut [f32]);

#[allow(clippy::too_many_arguments)]
pub fn accumulate<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    left: Left<'_, E>,
    right: &[E],
    parts: impl Iterator<Item = Part>,
    grads: &mut [f32],
    add: Add,
) {
    let Left { data, ld, columns, stack, product } = left;
    if m == 0 || columns == 0 {
        return;
    }
    transpose(cpu, m, ld, data, stack);
    let pack = |column: usize, count: usize, panel: &mut [E]| {
        E::pack_nn(cpu.level, right, n, m, column, count, panel);
    };
    let term = Term { a: stack, lda: m, k: m, pack: &pack };
    gemm(cpu, columns, n, &[term], Out { data: &mut *product, ld: n, scale: 1.0 });
    for part in parts {
        let rows = &product[part.column * n..(part.column + part.r) * n];
        add(rows, part.r, n, &mut grads[part.offset..part.offset + part.r * n]);
    }
}

/// grads `[r, n]` += product.
pub fn add_rows(product: &[f32], _r: usize, _n: usize, grads: &mut [f32]) {
    for (grad, x) in grads.iter_mut().zip(product) {
        *grad += x;
    }
}

/// grads `[n, r]` += productᵀ.
pub fn add_transposed(product: &[f32], r: usize, n: usize, grads: &mut [f32]) {
    for (o, row) in grads.chunks_exact_mut(r).enumerate() {
        for (j, grad) in row.iter_mut().enumerate() {
            *grad += product[j * n + o];
        }
    }
}

/// `stack[c, t] = data[t·ld + c]`, columns of the source in parallel.
fn transpose<E: GemmElement>(cpu: &Cpu, m: usize, ld: usize, data: &[E], stack: &mut [E]) {
    const AT_ONCE: usize = 8;
    cpu.install(|| {
        stack.par_chunks_mut(m * AT_ONCE).enumerate().for_each(|(block, out)| {
            for (c, out) in out.chunks_exact_mut(m).enumerate() {
                let source = data.iter().skip(block * AT_ONCE + c).step_by(ld);
                for (out, x) in out.iter_mut().zip(source) {
                    *out = *x;
                }
            }
        });
    });
}
