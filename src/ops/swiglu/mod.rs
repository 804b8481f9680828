//! SwiGLU: `h = silu(gate) · up`, `silu(g) = g / (1 + e^-g)`, element by element.
//!
//! Shapes: gate, up, h `[n]` in the activation dtype E, any n.
//!
//! Rounding, in Hugging Face's order: silu is computed in f32 and rounded to E, then multiplied by
//! up and rounded again.
//!
//! Backward, with σ = 1 / (1 + e^-g): `dup = dh · silu(g)`,
//! `dgate = dh · up · σ · (1 + g·(1 - σ))`. It works in place, so that the three gradients need no
//! memory of their own, and recomputes h, so that the forward need not keep it.
//!
//! For g below -88.72, where e^-g overflows, silu and its slope are 0 (they are below 3e-37).
//!
//! In f32 e^-g is within one unit in the last place, in bf16 within 2^-17 (a rounding is 2^-8).
//!
//! Source: Shazeer 2020 (arXiv 2002.05202), section 2.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "swiglu";

/// Writes h.
pub fn forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], h: &mut [E]) -> Result<(), ShapeError> {
    check(OP, "len of up", up.len(), gate.len())?;
    check(OP, "len of h", h.len(), gate.len())?;
    cpu::forward(cpu, gate, up, h);
    Ok(())
}

/// Overwrites gate with dgate, up with dup, and dh with h, bit-equal to what [`forward`] wrote.
pub fn backward<E: Element>(
    cpu: &Cpu,
    gate: &mut [E],
    up: &mut [E],
    dh: &mut [E],
) -> Result<(), ShapeError> {
    check(OP, "len of up", up.len(), gate.len())?;
    check(OP, "len of dh", dh.len(), gate.len())?;
    cpu::backward(cpu, gate, up, dh);
    Ok(())
}
