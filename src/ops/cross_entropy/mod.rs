//! Cross-entropy of gathered positions: `losses[p] = -log softmax(logits[p, :])[targets[p]]`.
//!
//! Shapes: logits `[P, vocab]` f32, targets `[P]`, losses `[P]` f32 (unscaled), dlogits
//! `[P, vocab]` in the activation dtype E. Every position counts: the caller gathers those with a
//! loss, and there is no "ignored" target.
//!
//! `dlogits[p, j] = (softmax(logits[p, :])[j] - [j = targets[p]]) · scale`, rounded once to E;
//! `scale` is one over the loss tokens of the accumulated step.
//!
//! The largest logit is subtracted first. A row's sum is kept in f64 (a vocabulary has 150,000
//! terms) but for stretches of [`CHAIN`](crate::device::cpu::simd::math::CHAIN) terms, and apart from
//! the target's term, so that its gradient doesn't cancel where the model is sure. A NaN or +inf in
//! a row makes that row's loss NaN.
//!
//! Where E is bf16, e^x is within 2^-17 for dlogits (a rounding is 2^-8); for losses it is within one
//! unit of f32 always.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, check, check_all_below, rows};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "cross_entropy";

/// Writes the loss of each position. A target beyond the vocabulary is an error.
pub fn forward(
    cpu: &Cpu,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    losses: &mut [f32],
) -> Result<(), ShapeError> {
    check_arguments(vocab, logits, targets, losses)?;
    cpu::forward(cpu, vocab, logits, targets, losses);
    Ok(())
}

/// Writes the loss of each position, and the gradient of `scale · Σ losses`.
pub fn forward_backward<E: Element>(
    cpu: &Cpu,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    scale: f32,
    losses: &mut [f32],
    dlogits: &mut [E],
) -> Result<(), ShapeError> {
    check_arguments(vocab, logits, targets, losses)?;
    check(OP, "len of dlogits", dlogits.len(), logits.len())?;
    cpu::forward_backward(cpu, vocab, logits, targets, scale, losses, dlogits);
    Ok(())
}

fn check_arguments(
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    losses: &[f32],
) -> Result<(), ShapeError> {
    let count = rows(OP, "len of logits", logits.len(), vocab)?;
    check(OP, "len of targets", targets.len(), count)?;
    check(OP, "len of losses", losses.len(), count)?;
    check_all_below(OP, "target", targets, vocab)
}
