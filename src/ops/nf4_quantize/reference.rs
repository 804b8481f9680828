//! The rule in plain f64: nearest code by distance, no reciprocal.

use crate::quant::nf4::{BLOCK, CODEBOOK};

/// (codes, absmax): the codes one a byte. A block of zeros has code 0.
pub fn forward(x: &[f64]) -> (Vec<u8>, Vec<f64>) {
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for block in x.chunks(BLOCK) {
        let absmax = block.iter().fold(0f64, |most, x| most.max(x.abs()));
        scales.push(absmax);
        codes.extend(block.iter().map(|x| if absmax == 0.0 { 0 } else { nearest(x / absmax) }));
    }
    (codes, scales)
}

/// The nearest code; a tie goes to the lower one.
fn nearest(x: f64) -> u8 {
    let distance = |code: u8| (f64::from(CODEBOOK[code as usize]) - x).abs();
    (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
}
