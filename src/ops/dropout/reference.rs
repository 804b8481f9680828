//! Dropout in plain f64. The mask is the op's own definition, bit by bit.

use super::Mask;

/// Whether each of the first `n` elements stays.
pub fn kept(mask: Mask, n: usize) -> Vec<bool> {
    let bits = |i: usize| {
        let words = mask.moment.words(mask.module, (i / 8) as u32);
        let word = words[(i % 8) / 2];
        if i.is_multiple_of(2) { word & 0xffff } else { word >> 16 }
    };
    (0..n).map(|i| bits(i) >= u32::from(mask.threshold)).collect()
}

/// mask ∘ x / (1 − p).
pub fn forward(mask: Mask, x: &[f64]) -> Vec<f64> {
    let scale = 65536.0 / (65536.0 - f64::from(mask.threshold));
    let kept = kept(mask, x.len());
    x.iter().zip(kept).map(|(x, kept)| if kept { x * scale } else { 0.0 }).collect()
}
