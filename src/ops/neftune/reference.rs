//! NEFTune in plain f64.

use super::STREAM;
use crate::philox::Moment;

/// x with its noise.
pub fn forward(
    alpha: f64,
    moment: Moment,
    cu_seqlens: &[u32],
    hidden: usize,
    x: &[f64],
) -> Vec<f64> {
    let mut out = x.to_vec();
    for pair in cu_seqlens.windows(2) {
        let length = f64::from(pair[1] - pair[0]);
        let magnitude = alpha / (length * hidden as f64).sqrt();
        let (first, end) = (pair[0] as usize * hidden, pair[1] as usize * hidden);
        for (i, x) in out[first..end].iter_mut().enumerate() {
            let place = first + i;
            let word = moment.words(STREAM, (place / 4) as u32)[place % 4];
            *x += magnitude * f64::from(word as i32) / 2f64.powi(31);
        }
    }
    out
}
