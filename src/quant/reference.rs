//! NF4 and double quantisation written plainly, one element at a time, in f64 where the rule
//! allows it: the twin that tests compare with.

use super::dynamic_map::DYNAMIC_MAP;
use super::nf4::{BLOCK, CODEBOOK, NESTED_BLOCK};

/// Codes (one a byte, not packed) and scales of `values`.
pub fn quantise(values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let (mut codes, mut absmax) = (Vec::new(), Vec::new());
    for block in values.chunks(BLOCK) {
        let max = block.iter().fold(0f32, |m, x| if x.abs() > m { x.abs() } else { m });
        absmax.push(max);
        for &x in block {
            codes.push(if max == 0.0 { 0 } else { code(x * (1.0 / max)) });
        }
    }
    (codes, absmax)
}

/// The lowest code whose upper neighbour is not nearer; distances are exact in f64.
pub fn code(x: f32) -> u8 {
    let mut code = 0;
    // The threshold is the midpoint rounded to f32: that rounding is part of the format.
    while code < 15 && x as f64 > threshold(code) as f64 {
        code += 1;
    }
    code as u8
}

fn threshold(code: usize) -> f32 {
    ((CODEBOOK[code] as f64 + CODEBOOK[code + 1] as f64) / 2.0) as f32
}

/// Values of unpacked codes under plain scales.
pub fn dequantise(codes: &[u8], absmax: &[f32]) -> Vec<f32> {
    codes
        .iter()
        .enumerate()
        .map(|(i, &c)| (CODEBOOK[c as usize] as f64 * absmax[i / BLOCK] as f64) as f32)
        .collect()
}

/// Mean of the scales, their largest distance from it in each 256, and for each scale the
/// distance of every map entry: a code is right when no entry is nearer.
pub fn nested_distance(absmax: &[f32], offset: f32, absmax2: &[f32], i: usize, code: u8) -> f64 {
    let scale = absmax2[i / NESTED_BLOCK];
    let x = ((absmax[i] - offset) * (1.0 / scale)) as f64;
    (DYNAMIC_MAP[code as usize] as f64 - x).abs()
}
