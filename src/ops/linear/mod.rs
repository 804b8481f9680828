//! The frozen, adapted linear: y = x·Wᵀ + (s·x·Aᵀ)·Bᵀ (+ bias), and dx = dy·W + (s·dy·B)·A.
//!
//! Shapes: x `[m, in]`, W `[out, in]` in NF4, bf16 or f32, A `[r, in]`, B `[out, r]`, bias `[out]`, y and dy
//! `[m, out]`; V = s·x·Aᵀ and U = s·dy·B `[m, r]` come from `lora_down`, with r padded by zeros.
//! Dtypes: activations and adapter copies in `E` (f32 or bf16); W as `round(value)` to `E`, one rounding at most
//! (NF4's value is `code · absmax`); the bias bf16; sums in f32, base, adapter and bias in one accumulator, y
//! rounded once. Linears that share x may hold their weights in different ways.
//! Errors: [`ShapeError`] when a buffer does not fit.
//! Source: Dettmers et al. 2023 (arXiv 2305.14314), eq. 5; Hu et al. 2021 (arXiv 2106.09685).
//!
//! On the CPU up to eight rows of bf16 are multiplied without panels (see few.rs), where the instruction
//! set has that; the bits are those of many rows, so a row does not depend on what is beside it.
//!
//! Why the adapter is a second stretch of the contraction: added to y afterwards it would cost a
//! second read and write of y and one more rounding.

mod cpu;
mod few;
#[doc(hidden)]
pub mod reference;

use half::bf16;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::{Cpu, GemmElement};
use crate::quant::Nf4Matrix;

/// A frozen weight `[out, in]`, row-major, as a base holds it.
#[derive(Clone, Copy, Debug)]
pub enum Weight<'a> {
    Nf4(&'a Nf4Matrix),
    Bf16(Rows<'a, bf16>),
    F32(Rows<'a, f32>),
}

/// A matrix `[rows, cols]` without gaps.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, T> {
    pub rows: usize,
    pub cols: usize,
    pub data: &'a [T],
}

impl Weight<'_> {
    /// Rows (output features) and columns (input features).
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Weight::Nf4(w) => (w.rows, w.cols),
            Weight::Bf16(w) => (w.rows, w.cols),
            Weight::F32(w) => (w.rows, w.cols),
        }
    }

    /// Checks that all elements are there; those of NF4 are checked where it is decoded.
    fn check(&self, op: &'static str) -> Result<(), ShapeError> {
        let (rows, cols) = self.shape();
        match self {
            Weight::Nf4(_) => Ok(()),
            Weight::Bf16(w) => check(op, "len of w", w.data.len(), rows * cols),
            Weight::F32(w) => check(op, "len of w", w.data.len(), rows * cols),
        }
    }
}

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
    pub w: Weight<'a>,
    pub lora: Option<LowRank<'a, E>>,
}

/// y = x·Wᵀ + V·Bᵀ (+ bias), overwriting y.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &[E],
    w: Weight<'_>,
    lora: Option<LowRank<'_, E>>,
    bias: Option<&[bf16]>,
    y: &mut [E],
) -> Result<(), ShapeError> {
    const OP: &str = "linear::forward";
    let (n_out, n_in) = w.shape();
    w.check(OP)?;
    check(OP, "len of x", x.len(), m * n_in)?;
    check(OP, "len of y", y.len(), m * n_out)?;
    if let Some(lora) = &lora {
        check_low_rank(OP, m, lora, n_out * lora.r)?;
    }
    if let Some(bias) = bias {
        check(OP, "len of bias", bias.len(), n_out)?;
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
    const OP: &str = "linear::backward";
    let Some(first) = terms.first() else {
        return check_at_least(OP, "number of terms", 0, 1);
    };
    check_at_least(OP, "room for terms", MAX_TERMS, terms.len())?;
    let (_, n_in) = first.w.shape();
    check(OP, "len of dx", dx.len(), m * n_in)?;
    for term in terms {
        let (n_out, cols) = term.w.shape();
        term.w.check(OP)?;
        check(OP, "in_features", cols, n_in)?;
        check(OP, "len of dy", term.dy.len(), m * n_out)?;
        if let Some(lora) = &term.lora {
            check_low_rank(OP, m, lora, lora.r * n_in)?;
        }
    }
    cpu::backward(cpu, m, n_in, terms, dx);
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
