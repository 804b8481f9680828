//! Into the low rank: V = s·x·Aᵀ forward, U = s·dy·B backward.
//!
//! Shapes: x `[m, in]`, A `[r, in]` → V `[m, r]` at pitch `ld`; dy `[m, out]`, B `[out, r]` → U
//! `[m, r]` at pitch `ld`. Adapters that share x stack their A's, so x is read once. s is folded in
//! here, so that V serves y and dB, U serves dx and dA, without another pass.
//! Dtypes: `E` (f32 or bf16) in and out, f32 sums, one rounding.
//! Errors: [`ShapeError`] when a buffer does not fit.
//! Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::{Cpu, GemmElement};

/// V = s·x·Aᵀ, overwriting the first `r` columns of each row of `v`.
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
) -> Result<(), ShapeError> {
    const OP: &str = "lora_down::forward";
    check(OP, "len of x", x.len(), m * n_in)?;
    check(OP, "len of a", a.len(), r * n_in)?;
    check_out(OP, m, r, ld, v.len())?;
    cpu::forward(cpu, m, n_in, r, scale, x, a, v, ld);
    Ok(())
}

/// U = s·dy·B, overwriting the first `r` columns of each row of `u`.
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
) -> Result<(), ShapeError> {
    const OP: &str = "lora_down::backward";
    check(OP, "len of dy", dy.len(), m * n_out)?;
    check(OP, "len of b", b.len(), n_out * r)?;
    check_out(OP, m, r, ld, u.len())?;
    cpu::backward(cpu, m, n_out, r, scale, dy, b, u, ld);
    Ok(())
}

fn check_out(
    op: &'static str,
    m: usize,
    r: usize,
    ld: usize,
    len: usize,
) -> Result<(), ShapeError> {
    check_at_least(op, "pitch of the result", ld, r)?;
    check_at_least(op, "len of the result", len, if m == 0 { 0 } else { (m - 1) * ld + r })
}
