//! The CPU path: one tile GEMM with the adapter matrix packed.

use crate::device::cpu::gemm::{Out, Term, gemm};
use crate::device::cpu::{Cpu, GemmElement};

#[allow(clippy::too_many_arguments)]
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n_in: usize,
    r: usize,
    scale: f32,
    x: &[E],
    a: &[E],
    v: &mut [E],
    ld: usize,
) {
    let pack = |column: usize, columns: usize, panel: &mut [E]| {
        E::pack_nt(cpu.level, a, n_in, column, columns, n_in, panel);
    };
    let term = Term { a: x, lda: n_in, k: n_in, pack: &pack };
    gemm(cpu, m, r, &[term], Out { data: v, ld, scale });
}

#[allow(clippy::too_many_arguments)]
pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n_out: usize,
    r: usize,
    scale: f32,
    dy: &[E],
    b: &[E],
    u: &mut [E],
    ld: usize,
) {
    let pack = |column: usize, columns: usize, panel: &mut [E]| {
        E::pack_nn(cpu.level, b, r, n_out, column, columns, panel);
    };
    let term = Term { a: dy, lda: n_out, k: n_out, pack: &pack };
    gemm(cpu, m, r, &[term], Out { data: u, ld, scale });
}
