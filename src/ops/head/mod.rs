//! The frozen output projection: logits = h·Wᵀ and dh = dlogits·W.
//!
//! Shapes: h and dh `[m, hidden]`, W `[vocab, hidden]` in bf16 (frozen, so there is no dW),
//! logits `[m, vocab]` in f32, dlogits `[m, vocab]` in `E`.
//! Dtypes: `E` (f32 or bf16) activations, f32 sums, one rounding.
//! Errors: [`ShapeError`] when a buffer does not fit.
//!
//! The caller gathers the positions that have a loss and calls this in chunks of a fixed number of
//! rows, so that `[T, vocab]` never exists.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use half::bf16;

use super::{ShapeError, check};
use crate::device::cpu::{Cpu, GemmElement};

/// logits = h·Wᵀ, overwriting logits.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    h: &[E],
    w: &[bf16],
    logits: &mut [f32],
) -> Result<(), ShapeError> {
    const OP: &str = "head::forward";
    let vocab = super::rows(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of h", h.len(), m * hidden)?;
    check(OP, "len of logits", logits.len(), m * vocab)?;
    cpu::forward(cpu, m, hidden, h, w, logits);
    Ok(())
}

/// dh = dlogits·W, overwriting dh.
pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    hidden: usize,
    dlogits: &[E],
    w: &[bf16],
    dh: &mut [E],
) -> Result<(), ShapeError> {
    const OP: &str = "head::backward";
    let vocab = super::rows(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of dh", dh.len(), m * hidden)?;
    check(OP, "len of dlogits", dlogits.len(), m * vocab)?;
    cpu::backward(cpu, m, hidden, dlogits, w, dh);
    Ok(())
}
