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
#[cfg(feature = "cuda")]
pub mod cuda;
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

const OP: &str = "adamw";

/// What [`Hyper`] comes to in a step: computed in f64, rounded once. The layout is the kernel's.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Factors {
    /// 1 - lr·weight_decay
    decay: f32,
    /// 1 - beta1
    m_weight: f32,
    /// beta2
    v_keep: f32,
    /// 1 - beta2
    v_weight: f32,
    /// sqrt(1 - beta2^step)
    root_bias2: f32,
    eps: f32,
    /// lr / (1 - beta1^step)
    step_size: f32,
}

impl Factors {
    fn new(hyper: &Hyper) -> Self {
        let bias1 = 1.0 - hyper.beta1.powf(hyper.step as f64);
        let bias2 = 1.0 - hyper.beta2.powf(hyper.step as f64);
        Self {
            decay: (1.0 - hyper.lr * hyper.weight_decay) as f32,
            m_weight: (1.0 - hyper.beta1) as f32,
            v_keep: hyper.beta2 as f32,
            v_weight: (1.0 - hyper.beta2) as f32,
            root_bias2: bias2.sqrt() as f32,
            eps: hyper.eps as f32,
            step_size: (hyper.lr / bias1) as f32,
        }
    }
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
    check_at_least(OP, "step", hyper.step.min(1) as usize, 1)?;
    check(OP, "len of grads", grads.len(), params.len())?;
    check(OP, "len of m", m.len(), params.len())?;
    check(OP, "len of v", v.len(), params.len())?;
    cpu::step(cpu, hyper, grad_scale, params, grads, m, v);
    Ok(())
}
