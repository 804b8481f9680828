//! NEFTune: `x[t, j] += alpha / sqrt(L·d) · u`, u uniform in [−1, 1), to the embeddings of training tokens.
//!
//! L is the length of the token's document, d the hidden size: what is packed beside a document does not
//! change its noise. (A trainer that pads takes the padded length.)
//!
//! Shapes: x `[T, d]` in the activation dtype E, in place; documents by cu_seqlens.
//!
//! u of element i is word i mod 4 of Philox's counter ⌊i / 4⌋ (see [`crate::philox`]), as a signed number
//! over 2³¹. The magnitude is computed in f64 and rounded to f32, the sum is f32, rounded once to E. The noise
//! does not depend on x, so there is no backward pass.
//!
//! Source: Jain et al. 2023 (arXiv 2310.05914), algorithm 1.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

use super::{ShapeError, Want, check, check_at_least};
use crate::device::cpu::{Cpu, Element};
use crate::philox::Moment;

const OP: &str = "neftune";

/// The stream of Philox: no module has this number.
const STREAM: u32 = u32::MAX;

/// Elements are counted by fours in 32 bits.
const MOST: usize = 1 << 34;

/// Adds the noise.
pub fn forward<E: Element>(
    cpu: &Cpu,
    alpha: f64,
    moment: Moment,
    cu_seqlens: &[u32],
    hidden: usize,
    x: &mut [E],
) -> Result<(), ShapeError> {
    check_at_least(OP, "len of cu_seqlens", cu_seqlens.len(), 1)?;
    check(OP, "cu_seqlens[0]", cu_seqlens[0] as usize, 0)?;
    for pair in cu_seqlens.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        check_at_least(OP, "end of a document in cu_seqlens", end, start)?;
    }
    let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
    check_len(tokens, hidden, x.len())?;
    cpu::forward(cpu, alpha, moment, cu_seqlens, hidden, x);
    Ok(())
}

fn check_len(tokens: usize, hidden: usize, len: usize) -> Result<(), ShapeError> {
    check(OP, "len of x", len, tokens.saturating_mul(hidden))?;
    match len <= MOST {
        true => Ok(()),
        false => Err(ShapeError { op: OP, what: "elements", got: len, want: Want::Below(MOST) }),
    }
}

/// alpha / sqrt(length·hidden).
fn magnitude(alpha: f64, length: u32, hidden: usize) -> f32 {
    (alpha / (f64::from(length) * hidden as f64).sqrt()) as f32
}

/// A word as a number in [−1, 1).
#[inline(always)]
fn uniform(word: u32) -> f32 {
    word as i32 as f32 * (1.0 / 2_147_483_648.0)
}
