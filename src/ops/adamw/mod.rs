//! AdamW: one optimizer step on f32 parameters, in PyTorch's order.
//!
//! With g = grad_scale · grads, for each element:
//! ```text
//! p -= lr·weight_decay·p                      (decay first, decoupled from the gradient)
//! m += (1 - beta1)·(g - m)
//! v  = beta2·v + (1 - beta2)·g²
//! p -= lr / (1 - beta1^step) · m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
//! ```
//! Shapes: params, grads, m, v `[n]` f32. eps stands outside the root and after the bias
//! correction. The corrections are computed in f64. `grad_scale` is the clipping factor
//! ([`super::reduce::clip_scale`]), applied here so that the gradients are read once.
//!
//! Source: Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, as `torch.optim.AdamW`
//! writes it.

mod cpu;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_at_least};
use crate::device::cpu::Cpu;

/// What a step depends on besides the tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyper {
    /// The learning rate of this step.
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Counted from 1.
    pub step: u64,
}

/// Updates params, m and v in place. Step 0 is an error: its bias correction divides by zero.
pub fn step(
    cpu: &Cpu,
    hyper: &Hyper,
    grad_scale: f32,
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) -> Result<(), ShapeError> {
    const OP: &str = "adamw";
    check_at_least(OP, "step", hyper.step.min(1) as usize, 1)?;
    check(OP, "len of grads", grads.len(), params.len())?;
    check(OP, "len of m", m.len(), params.len())?;
    check(OP, "len of v", v.len(), params.len())?;
    cpu::step(cpu, hyper, grad_scale, params, grads, m, v);
    Ok(())
}
