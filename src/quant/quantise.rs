//! Quantising to NF4 by bitsandbytes' CUDA rule, and its scales a second time to 8 bits.
//!
//! Dettmers et al. 2023 (arXiv 2305.14314), section 3; the byte-level rule is that of
//! bitsandbytes' CUDA kernels. The matrix is flattened row-major and cut into blocks of 64
//! elements, the last one perhaps shorter:
//!
//! ```text
//! absmax = max |x|              f32, over the block
//! code   = #{ t : x · (1/absmax) > t }   t: the 15 f32 midpoints of the codebook
//! ```
//!
//! The comparison is strict, so a tie goes to the lower code. A block of zeros has 1/absmax = ∞
//! and 0·∞ = NaN, which is above no threshold: code 0 with absmax 0. CUDA flushes subnormal
//! numbers to zero and so do we: a subnormal weight counts as zero. Its approximate reciprocal is
//! not reproduced: 1/absmax is rounded correctly here, and the two may differ by one adjacent code
//! where a value lies within an ulp or two of a threshold.
//!
//! Work is cut by shape into runs of whole blocks, so the bytes do not depend on the threads.

use std::ops::Range;

use rayon::prelude::*;

use super::dynamic_map::DYNAMIC_MAP;
use super::error::Error;
use super::nf4::{Absmax, BLOCK, CODEBOOK, NESTED_BLOCK, Nf4Matrix};
use crate::device::bytes::Bytes;

/// Decision thresholds between adjacent codes: the f32 midpoints of the codebook.
pub const THRESHOLDS: [f32; 15] = {
    let mut thresholds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        thresholds[i] = (CODEBOOK[i] + CODEBOOK[i + 1]) / 2.0;
        i += 1;
    }
    thresholds
};

/// Elements that one task converts at a time, about: 256 KB of f32, which a core's cache holds.
const TASK: usize = 1 << 16;

/// Quantises `values`, row-major `[rows, cols]`, with plain f32 scales.
///
/// Errors: [`Error::Length`], [`Error::NotFinite`] for the first NaN or infinity.
pub fn quantise(rows: usize, cols: usize, values: &[f32]) -> Result<Nf4Matrix, Error> {
    if rows.checked_mul(cols) != Some(values.len()) {
        return Err(Error::Length { rows, cols, found: values.len() });
    }
    quantise_rows(rows, cols, |range, out| {
        out.copy_from_slice(&values[range.start * cols..range.end * cols]);
        Ok(())
    })
}

/// Quantises a `[rows, cols]` matrix that `fill` produces a few rows at a time, so that the whole
/// matrix never exists in f32: `fill(rows, out)` writes those rows into `out`, from any thread.
///
/// Errors: those of `fill`, and [`Error::NotFinite`]; of several the one with the lowest row.
pub fn quantise_rows<E: From<Error> + Send>(
    rows: usize,
    cols: usize,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<(), E> + Sync,
) -> Result<Nf4Matrix, E> {
    let len = rows * cols;
    let mut codes = vec![0u8; len.div_ceil(2)];
    let mut absmax = vec![0f32; len.div_ceil(BLOCK)];
    if len > 0 {
        let step = rows_per_task(rows, cols);
        let elements = step * cols;
        let results: Vec<Result<(), E>> = codes
            .par_chunks_mut(elements.div_ceil(2))
            .zip(absmax.par_chunks_mut(elements.div_ceil(BLOCK)))
            .enumerate()
            .map_init(Vec::new, |values, (task, (codes, absmax))| {
                let range = task * step..rows.min((task + 1) * step);
                values.clear();
                values.resize(range.len() * cols, 0.0);
                fill(range.clone(), values)?;
                quantise_run(values, codes, absmax).map_err(|at| {
                    let index = range.start * cols + at;
                    Error::NotFinite { index, value: values[at] }.into()
                })
            })
            .collect();
        results.into_iter().collect::<Result<(), E>>()?;
    }
    Ok(Nf4Matrix { rows, cols, codes: Bytes::from(codes), absmax: Absmax::Plain(absmax.into()) })
}

/// The fewest rows that are whole blocks and at least [`TASK`] elements, or all rows.
fn rows_per_task(rows: usize, cols: usize) -> usize {
    // cols * unit is a multiple of 64 for unit = 64 / gcd(cols, 64).
    let unit = BLOCK >> (cols.trailing_zeros().min(BLOCK.trailing_zeros()));
    unit.saturating_mul(TASK.div_ceil(cols.saturating_mul(unit))).min(rows)
}

/// Quantises a run that begins at a block; the position of the first non-finite value on error.
fn quantise_run(values: &[f32], codes: &mut [u8], absmax: &mut [f32]) -> Result<(), usize> {
    let blocks = values.chunks(BLOCK).zip(codes.chunks_mut(BLOCK / 2));
    for (b, ((block, codes), absmax)) in blocks.zip(absmax).enumerate() {
        let mut x = [0f32; BLOCK];
        x[..block.len()].copy_from_slice(block);
        *absmax = quantise_block(&x, codes);
        if !absmax.is_finite() {
            let at = block.iter().position(|v| !v.is_finite()).unwrap_or(0);
            return Err(b * BLOCK + at);
        }
    }
    Ok(())
}

/// One block: writes the packed codes, returns absmax, which is not finite when a value is not.
#[inline]
fn quantise_block(x: &[f32; BLOCK], codes: &mut [u8]) -> f32 {
    // Absolute values as integers: their order is that of the numbers, with NaN above infinity.
    let bits = x.iter().fold(0u32, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
    let max = f32::from_bits(bits);
    let absmax = if max < f32::MIN_POSITIVE { 0.0 } else { max };
    let inverse = 1.0 / absmax;
    let mut code = [0u8; BLOCK];
    for (code, &x) in code.iter_mut().zip(x) {
        let x = if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x } * inverse;
        let mut above = 0u32;
        for t in THRESHOLDS {
            above += (x > t) as u32;
        }
        *code = above as u8;
    }
    for (byte, pair) in codes.iter_mut().zip(code.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    absmax
}

/// Quantises plain scales to 8 bits (double quantisation); nested scales are left as they are.
///
/// `offset` is the mean of the scales, summed in f64; `scale - offset` is quantised in blocks of
/// 256 to the nearest entry of [`DYNAMIC_MAP`] after division by the block's own absolute maximum,
/// again by a reciprocal. A tie goes to the entry at which CUDA's binary search stands.
pub fn double_quantise(matrix: Nf4Matrix) -> Nf4Matrix {
    let Absmax::Plain(absmax) = &matrix.absmax else { return matrix };
    let sum: f64 = absmax.iter().map(|&a| a as f64).sum();
    let offset = if absmax.is_empty() { 0.0 } else { (sum / absmax.len() as f64) as f32 };
    let mut codes = vec![0u8; absmax.len()];
    let mut absmax2 = vec![0f32; absmax.len().div_ceil(NESTED_BLOCK)];
    codes
        .par_chunks_mut(NESTED_BLOCK)
        .zip(absmax.par_chunks(NESTED_BLOCK))
        .zip(absmax2.par_iter_mut())
        .for_each(|((codes, absmax), absmax2)| {
            let max = absmax.iter().fold(0f32, |max, a| max.max((a - offset).abs()));
            *absmax2 = if max < f32::MIN_POSITIVE { 0.0 } else { max };
            let inverse = 1.0 / *absmax2;
            for (code, a) in codes.iter_mut().zip(absmax) {
                *code = nearest((a - offset) * inverse);
            }
        });
    let absmax = Absmax::Nested {
        codes: Bytes::from(codes),
        absmax2: absmax2.into(),
        offset,
        map: DYNAMIC_MAP.into(),
    };
    Nf4Matrix { absmax, ..matrix }
}

/// The nearest entry of the dynamic map, found as CUDA finds it: a binary search from entry 127
/// whose last pivot wins a tie against its neighbour on either side. NaN gives 0.
fn nearest(x: f32) -> u8 {
    let (mut pivot, mut lower, mut upper) = (127, 0, 255);
    for step in [64, 32, 16, 8, 4, 2, 1] {
        if x > DYNAMIC_MAP[pivot] {
            lower = pivot;
            pivot += step;
        } else {
            upper = pivot;
            pivot -= step;
        }
    }
    let here = DYNAMIC_MAP[pivot];
    let code = if x > here {
        if x > (DYNAMIC_MAP[upper] + here) * 0.5 { upper } else { pivot }
    } else if x < (DYNAMIC_MAP[lower] + here) * 0.5 {
        lower
    } else {
        pivot
    };
    code as u8
}
