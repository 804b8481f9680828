//! Out of the low rank, by itself: T = U·A, where something must happen to it before it joins dx.
//!
//! Shapes: U `[m, r]` at pitch `ld`, A `[r, in]`, T `[m, in]`. Without dropout this product is a stretch of
//! `linear`'s contraction and never stored.
//! Dtypes: `E` (f32 or bf16) in and out, f32 sums, one rounding.
//! Errors: [`ShapeError`] when a buffer does not fit.
//! Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1, differentiated.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::{Cpu, GemmElement};

/// Sizes of a product out of the low rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Tokens.
    pub m: usize,
    /// Features of T.
    pub width: usize,
    /// Columns of U that are read.
    pub r: usize,
    /// Elements between two rows of U.
    pub ld: usize,
}

impl Dims {
    fn check(&self, u: usize, a: usize, t: usize) -> Result<(), ShapeError> {
        const OP: &str = "lora_up";
        let Dims { m, width, r, ld } = *self;
        check(OP, "len of a", a, r * width)?;
        check(OP, "len of t", t, m * width)?;
        check_at_least(OP, "pitch of u", ld, r)?;
        check_at_least(OP, "len of u", u, if m == 0 { 0 } else { (m - 1) * ld + r })
    }
}

/// T = U·A, overwriting t.
pub fn forward<E: GemmElement>(
    cpu: &Cpu,
    dims: Dims,
    u: &[E],
    a: &[E],
    t: &mut [E],
) -> Result<(), ShapeError> {
    dims.check(u.len(), a.len(), t.len())?;
    cpu::forward(cpu, dims, u, a, t);
    Ok(())
}
