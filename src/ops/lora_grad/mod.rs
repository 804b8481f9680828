//! The adapters' gradients: dA += Uᵀ·x and dB += dyᵀ·V.
//!
//! Shapes: U, V `[m, ·]` at pitch `ld`, an adapter's columns starting at its `column`; x `[m, in]`,
//! dy `[m, out]`; dA `[r, in]`, dB `[out, r]` row-major in one flat f32 vector of gradients.
//! U = s·dy·B and V = s·x·Aᵀ already hold the scale. Sums over m run in order in f32, so the
//! result does not depend on threads; then it is ADDED to the gradient (accumulated micro-batches).
//! Errors: [`ShapeError`] when a buffer does not fit.
//! Source: Hu et al. 2021 (arXiv 2106.09685), section 4.1, differentiated.
//!
//! Why `stack` and `product` are the caller's: the left operand is read down its columns, so it is
//! transposed once into `stack[columns, m]`; the product of all stacked adapters is made in one
//! GEMM (x packed once for q, k and v) in `product[columns, n]` and then added where it belongs.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::{Cpu, GemmElement};

/// One adapter's gradient matrix: `r` columns of U or V starting at `column`, and where its dA or
/// dB begins in the flat gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub column: usize,
    pub r: usize,
    pub offset: usize,
}

/// The left operand and the scratch that goes with it.
pub struct Left<'a, E> {
    /// `columns` columns of U or V, `[m, columns]` at pitch `ld`.
    pub data: &'a [E],
    pub ld: usize,
    pub columns: usize,
    /// `columns · m` elements.
    pub stack: &'a mut [E],
    /// `columns · n` elements.
    pub product: &'a mut [f32],
}

/// For each part: `grads[offset + j·in + i] += Σ_t U[t, column + j] · x[t, i]`.
pub fn down<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n_in: usize,
    left: Left<'_, E>,
    x: &[E],
    parts: impl Iterator<Item = Part> + Clone,
    grads: &mut [f32],
) -> Result<(), ShapeError> {
    const OP: &str = "lora_grad::down";
    check_all(OP, m, n_in, &left, x.len(), parts.clone(), grads.len())?;
    if m * n_in * left.columns > 0 {
        cpu::down(cpu, n_in, left, x, parts, grads);
    }
    Ok(())
}

/// For each part: `grads[offset + o·r + j] += Σ_t V[t, column + j] · dy[t, o]`.
pub fn up<E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    n_out: usize,
    left: Left<'_, E>,
    dy: &[E],
    parts: impl Iterator<Item = Part> + Clone,
    grads: &mut [f32],
) -> Result<(), ShapeError> {
    const OP: &str = "lora_grad::up";
    check_all(OP, m, n_out, &left, dy.len(), parts.clone(), grads.len())?;
    if m * n_out * left.columns > 0 {
        cpu::up(cpu, n_out, left, dy, parts, grads);
    }
    Ok(())
}

fn check_all<E>(
    op: &'static str,
    m: usize,
    n: usize,
    left: &Left<'_, E>,
    right: usize,
    parts: impl Iterator<Item = Part>,
    grads: usize,
) -> Result<(), ShapeError> {
    let needed = if m == 0 { 0 } else { (m - 1) * left.ld + left.columns };
    check_at_least(op, "pitch of U or V", left.ld, left.columns)?;
    check_at_least(op, "len of U or V", left.data.len(), needed)?;
    check(op, "len of x or dy", right, m * n)?;
    check(op, "len of stack", left.stack.len(), left.columns * m)?;
    check(op, "len of product", left.product.len(), left.columns * n)?;
    for part in parts {
        check_at_least(op, "columns of U or V", left.columns, part.column + part.r)?;
        check_at_least(op, "len of grads", grads, part.offset + part.r * n)?;
    }
    Ok(())
}
