//! RMSNorm: `y[t, i] = w[i] · x[t, i] · rstd[t]`, `rstd[t] = 1 / sqrt(mean_i x[t, i]² + eps)`.
//!
//! Shapes: x, residual, sum, y, dy, dx `[T, hidden]` in the activation dtype E; w `[hidden]` bf16 (the
//! base model's own storage); rstd `[T]` f32, kept for the backward. Row-major.
//!
//! Rounding, in Hugging Face's order: x·rstd is rounded to E, then multiplied by w and rounded
//! again. Sums are f32.
//!
//! Backward, with x̂ = x·rstd:
//! `dx[t, i] += rstd[t] · (w[i]·dy[t, i] - x̂[t, i] · mean_j(w[j]·dy[t, j]·x̂[t, j]))`.
//! It ADDS to dx, because the residual's own gradient is already there. w is frozen: no dw.
//!
//! Source: Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use half::bf16;

use super::{ShapeError, check, rows};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "rms_norm";

/// Writes y and rstd.
pub fn forward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    eps: f32,
    x: &[E],
    w: &[bf16],
    y: &mut [E],
    rstd: &mut [f32],
) -> Result<(), ShapeError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of y", y.len(), x.len())?;
    check(OP, "len of rstd", rstd.len(), count)?;
    cpu::forward(cpu, hidden, eps, x, w, y, rstd);
    Ok(())
}

/// Writes `sum = x + residual`, rounded once to E; then y and rstd of the rounded sum.
#[allow(clippy::too_many_arguments)]
pub fn add_forward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    eps: f32,
    x: &[E],
    residual: &[E],
    sum: &mut [E],
    w: &[bf16],
    y: &mut [E],
    rstd: &mut [f32],
) -> Result<(), ShapeError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of residual", residual.len(), x.len())?;
    check(OP, "len of sum", sum.len(), x.len())?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of y", y.len(), x.len())?;
    check(OP, "len of rstd", rstd.len(), count)?;
    cpu::add_forward(cpu, hidden, eps, x, residual, sum, w, y, rstd);
    Ok(())
}

/// Writes `sum = x + residual` alone, rounded as [`add_forward`] rounds it.
pub fn add<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    x: &[E],
    residual: &[E],
    sum: &mut [E],
) -> Result<(), ShapeError> {
    rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of residual", residual.len(), x.len())?;
    check(OP, "len of sum", sum.len(), x.len())?;
    cpu::add(cpu, hidden, x, residual, sum);
    Ok(())
}

/// ADDS the gradient to dx. `x` is what the forward normalised (the sum, for
/// [`add_forward`]), `rstd` what it wrote.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    x: &[E],
    w: &[bf16],
    rstd: &[f32],
    dy: &[E],
    dx: &mut [E],
) -> Result<(), ShapeError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of rstd", rstd.len(), count)?;
    check(OP, "len of dy", dy.len(), x.len())?;
    check(OP, "len of dx", dx.len(), x.len())?;
    cpu::backward(cpu, hidden, x, w, rstd, dy, dx);
    Ok(())
}
