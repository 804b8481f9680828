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

/// Sizes of a product into the low rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Tokens.
    pub m: usize,
    /// Features of x (forward) or dy (backward).
    pub width: usize,
    /// Columns of V or U that are written.
    pub r: usize,
    /// Elements between two rows of V or U.
    pub ld: usize,
}

impl Dims {
    fn check(
        &self,
        op: &'static str,
        wide: usize,
        adapter: usize,
        result: usize,
    ) -> Result<(), ShapeError> {
        let Dims { m, width, r, ld } = *self;
        check(op, "len of x or dy", wide, m * width)?;
        check(op, "len of the adapter matrix", adapter, r * width)?;
        check_at_least(op, "pitch of the result", ld, r)?;
        check_at_least(op, "len of the result", result, if m == 0 { 0 } else { (m - 1) * ld + r })
    }
}

/// V = s·x·Aᵀ, overwriting the first `r` columns of each row of `v`.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    dims: Dims,
    scale: f32,
    x: &[E],
    a: &[E],
    v: &mut [E],
) -> Result<(), ShapeError> {
    dims.check("lora_down::forward", x.len(), a.len(), v.len())?;
    cpu::forward(cpu, dims, scale, x, a, v);
    Ok(())
}

/// U = s·dy·B, overwriting the first `r` columns of each row of `u`.
pub fn backward<E: GemmElement>(
    cpu: &Cpu,
    dims: Dims,
    scale: f32,
    dy: &[E],
    b: &[E],
    u: &mut [E],
) -> Result<(), ShapeError> {
    dims.check("lora_down::backward", dy.len(), b.len(), u.len())?;
    cpu::backward(cpu, dims, scale, dy, b, u);
    Ok(())
}
