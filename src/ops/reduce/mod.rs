//! Reductions of f32 arrays: `Σ x_i²`, `Σ x_i`, the first element that is not finite.
//!
//! Sums are f64 in an order that the length alone decides, so any number of threads gives the
//! same bits. A NaN or an infinity anywhere makes the sum NaN or infinite.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use crate::device::cpu::Cpu;

/// `Σ x_i²`: the gradient norm is the root of such sums added in a fixed order.
pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    cpu::sum_of_squares(cpu, x)
}

/// `Σ x_i`.
pub fn sum(cpu: &Cpu, x: &[f32]) -> f64 {
    cpu::sum(cpu, x)
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(cpu: &Cpu, x: &[f32]) -> Option<usize> {
    cpu::first_non_finite(cpu, x)
}

/// What gradients of norm `norm` are multiplied by: `min(1, max_norm / (norm + 1e-6))`, as
/// `torch.nn.utils.clip_grad_norm_`. A NaN norm gives NaN.
pub fn clip_scale(norm: f64, max_norm: f64) -> f32 {
    let scale = max_norm / (norm + 1e-6);
    // Not f64::min, which would turn NaN into 1.
    (if scale > 1.0 { 1.0 } else { scale }) as f32
}
