//! Dropout before an adapter: `out = mask ∘ x / (1 − p)`, and back, `dx += mask ∘ t / (1 − p)`.
//!
//! Shapes: x, out, t, dx `[m, width]` in the activation dtype E, row-major.
//!
//! The mask of an element is a function of (seed, step, micro-batch, module, place), so the backward pass
//! makes it again instead of keeping it; PEFT draws one for each adapted linear, so q, k and v have each their
//! own. An element is dropped where 16 random bits are below ⌊2¹⁶p⌉, and what stays is multiplied by
//! 2¹⁶ / (2¹⁶ − ⌊2¹⁶p⌉), its expectation thereby exact. Element i takes half-word i mod 8 (low half first) of
//! the four Philox words of counter ⌊i / 8⌋, see [`crate::philox`].
//!
//! Arithmetic is f32, one rounding to E.
//!
//! Source: Srivastava et al. 2014 (JMLR 15); `lora_dropout` as PEFT applies it, to the input of A.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, Want, check};
use crate::device::cpu::{Cpu, Element};
use crate::philox::Moment;

const OP: &str = "dropout";

/// Which mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mask {
    pub moment: Moment,
    /// The module's number: a stream of its own.
    pub module: u32,
    /// Dropped of 2¹⁶.
    threshold: u16,
}

impl Mask {
    /// The mask of a module that drops a share `p` of its inputs, 0 ≤ p < 1.
    pub fn new(moment: Moment, module: u32, p: f64) -> Self {
        let threshold = (p * 65536.0).round().clamp(0.0, 65535.0) as u16;
        Self { moment, module, threshold }
    }

    /// What an element that stays is multiplied by.
    pub fn scale(&self) -> f32 {
        (65536.0 / (65536.0 - f64::from(self.threshold))) as f32
    }

    /// The factors, 0 or [`Mask::scale`], of elements 8·index to 8·index + 7.
    #[inline(always)]
    fn factors(&self, index: u32) -> [f32; 8] {
        let words = self.moment.words(self.module, index);
        let scale = self.scale();
        std::array::from_fn(|i| {
            let half = (words[i / 2] >> (16 * (i % 2))) as u16;
            if half < self.threshold { 0.0 } else { scale }
        })
    }
}

/// Elements are counted by eights in 32 bits.
fn check_lengths(what: &'static str, got: usize, want: usize) -> Result<(), ShapeError> {
    const MOST: usize = 1 << 35;
    check(OP, what, got, want)?;
    match want <= MOST {
        true => Ok(()),
        false => Err(ShapeError { op: OP, what: "elements", got: want, want: Want::Below(MOST) }),
    }
}

/// Writes out.
pub fn forward<E: Element>(
    cpu: &Cpu,
    mask: Mask,
    x: &[E],
    out: &mut [E],
) -> Result<(), ShapeError> {
    check_lengths("len of out", out.len(), x.len())?;
    cpu::forward(cpu, mask, x, out);
    Ok(())
}

/// Adds to dx.
pub fn backward<E: Element>(
    cpu: &Cpu,
    mask: Mask,
    t: &[E],
    dx: &mut [E],
) -> Result<(), ShapeError> {
    check_lengths("len of dx", dx.len(), t.len())?;
    cpu::backward(cpu, mask, t, dx);
    Ok(())
}
