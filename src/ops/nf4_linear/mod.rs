//! The quantised, adapted linear: y = x·Wᵀ + (s·x·Aᵀ)·Bᵀ (+ bias), and dx = dy·W + (s·dy·B)·A.
//!
//! Shapes: x `[m, in]`, W `[out, in]` in NF4, A `[r, in]`, B `[out, r]`, bias `[out]`, y and dy `[m, out]`;
//! V = s·x·Aᵀ and U = s·dy·B `[m, r]` come from `lora_down`, with r padded by zeros.
//! Dtypes: activations and adapter copies in `E` (f32 or bf16); W decoded as
//! `round(code · absmax)` to `E`, one rounding; the bias bf16; sums in f32, base, adapter and bias in one
//! accumulator, y rounded once.
//! Errors: [`ShapeError`] when a buffer does not fit.
//! Source: Dettmers et al. 2023 (arXiv 2305.14314), eq. 5; Hu et al. 2021 (arXiv 2106.09685).
//!
//! On the CPU up to eight rows of bf16 are multiplied without panels (see few.rs), where the instruction
//! set has that; the bits are those of many rows, so a row does not depend on what is beside it.
//!
//! Why the adapter is a second stretch of the contraction: added to y afterwards it would cost a
//! second read and write of y and one more rounding.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod few;
#[doc(hidden)]
pub mod reference;

use half::bf16;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::{Cpu, GemmElement};
use crate::quant::Nf4Matrix;

/// The adapter's part of one linear: `left[m, 0..r]` at pitch `ld` (V or U, scale included), and
/// the matrix it meets (B `[out, r]` forward, A `[r, in]` backward).
#[derive(Clone, Copy)]
pub struct LowRank<'a, E> {
    pub left: &'a [E],
    pub ld: usize,
    pub r: usize,
    pub right: &'a [E],
}

/// One linear's contribution to dx.
#[derive(Clone, Copy)]
pub struct BackwardTerm<'a, E> {
    pub dy: &'a [E],
    pub w: &'a Nf4Matrix,
    pub lora: Option<LowRank<'a, E>>,
}

/// y = x·Wᵀ + V·Bᵀ (+ bias), overwriting y.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &[E],
    w: &Nf4Matrix,
    lora: Option<LowRank<'_, E>>,
    bias: Option<&[bf16]>,
    y: &mut [E],
) -> Result<(), ShapeError> {
    const OP: &str = "nf4_linear::forward";
    check(OP, "len of x", x.len(), m * w.cols)?;
    check(OP, "len of y", y.len(), m * w.rows)?;
    if let Some(lora) = &lora {
        check_low_rank(OP, m, lora, w.rows * lora.r)?;
    }
    if let Some(bias) = bias {
        check(OP, "len of bias", bias.len(), w.rows)?;
    }
    cpu::forward(cpu, m, x, w, lora, bias, y);
    Ok(())
}

/// dx = Σ over linears that share x of dy·W + U·A, overwriting dx.
pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    terms: &[BackwardTerm<'_, E>],
    dx: &mut [E],
) -> Result<(), ShapeError> {
    const OP: &str = "nf4_linear::backward";
    let Some(first) = terms.first() else {
        return check_at_least(OP, "number of terms", 0, 1);
    };
    check_at_least(OP, "room for terms", MAX_TERMS, terms.len())?;
    check(OP, "len of dx", dx.len(), m * first.w.cols)?;
    for term in terms {
        check(OP, "in_features", term.w.cols, first.w.cols)?;
        check(OP, "len of dy", term.dy.len(), m * term.w.rows)?;
        if let Some(lora) = &term.lora {
            check_low_rank(OP, m, lora, lora.r * term.w.cols)?;
        }
    }
    cpu::backward(cpu, m, first.w.cols, terms, dx);
    Ok(())
}

/// Most linears that share an input (q, k and v).
const MAX_TERMS: usize = 4;

fn check_low_rank<E>(
    op: &'static str,
    m: usize,
    lora: &LowRank<'_, E>,
    right: usize,
) -> Result<(), ShapeError> {
    check(op, "len of the adapter matrix", lora.right.len(), right)?;
    let needed = if m == 0 { 0 } else { (m - 1) * lora.ld + lora.r };
    check_at_least(op, "pitch of V or U", lora.ld, lora.r)?;
    check_at_least(op, "len of V or U", lora.left.len(), needed)
}
