//! An NF4 matrix as bitsandbytes stores it: packed 4-bit codes and one scale per 64 elements.

use std::ops::Range;
use std::sync::Arc;

use crate::device::bytes::Bytes;

/// Elements that share one absmax.
pub const BLOCK: usize = 64;
/// First-level scales that share one second-level absmax under double quantisation.
pub const NESTED_BLOCK: usize = 256;

/// The NF4 codebook, in code order, with every digit bitsandbytes has.
pub const CODEBOOK: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Bytes of a matrix of this shape, double quantised: codes, scales, their scales, map and offset.
pub fn bytes(rows: usize, cols: usize) -> u64 {
    let elements = rows as u64 * cols as u64;
    let blocks = elements.div_ceil(BLOCK as u64);
    elements.div_ceil(2) + blocks + 4 * blocks.div_ceil(NESTED_BLOCK as u64) + 4 * (256 + 1)
}

/// A quantised weight `W[rows = out_features, cols = in_features]`, flattened row-major into
/// blocks of [`BLOCK`] elements (a block straddles rows when `cols % 64 != 0`).
///
/// Element `2j` is the high nibble of byte `j`, element `2j + 1` the low one. The value of element
/// `i` is `CODEBOOK[code(i)] * absmax(i / 64)`, one f32 multiplication.
#[derive(Clone, Debug)]
pub struct Nf4Matrix {
    pub rows: usize,
    pub cols: usize,
    /// `(rows * cols).div_ceil(2)` bytes.
    pub codes: Bytes,
    pub absmax: Absmax,
}

/// The scales of an [`Nf4Matrix`], one for each block.
#[derive(Clone, Debug)]
pub enum Absmax {
    /// f32, as they are.
    Plain(Arc<[f32]>),
    /// Double quantisation: scale `b` is `map[codes[b]] * absmax2[b / 256] + offset` in f32.
    Nested { codes: Bytes, absmax2: Arc<[f32]>, offset: f32, map: Arc<[f32]> },
}

impl Absmax {
    /// The scale of one block.
    #[inline]
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Absmax::Plain(absmax) => absmax[block],
            Absmax::Nested { codes, absmax2, offset, map } => {
                nested_scale(codes, absmax2, *offset, map)(block)
            }
        }
    }

    /// The scales of the blocks from `first` on, as many as `out` has room for.
    ///
    /// Panics where there are fewer.
    pub fn copy(&self, first: usize, out: &mut [f32]) {
        match self {
            Absmax::Plain(absmax) => out.copy_from_slice(&absmax[first..first + out.len()]),
            Absmax::Nested { codes, absmax2, offset, map } => {
                let codes = &codes[first..first + out.len()];
                // A stretch for each value of absmax2.
                let mut start = 0;
                while start < out.len() {
                    let block = (first + start) / NESTED_BLOCK;
                    let stop = out.len().min(NESTED_BLOCK * (block + 1) - first);
                    let scale = absmax2[block];
                    for (out, &code) in out[start..stop].iter_mut().zip(&codes[start..stop]) {
                        *out = map[code as usize] * scale + offset;
                    }
                    start = stop;
                }
            }
        }
    }
}

/// The scale of each block under double quantisation: [`Absmax::Nested`] taken apart once, for a loop.
#[inline]
pub fn nested_scale(
    codes: &[u8],
    absmax2: &[f32],
    offset: f32,
    map: &[f32],
) -> impl Fn(usize) -> f32 {
    move |block| map[codes[block] as usize] * absmax2[block / NESTED_BLOCK] + offset
}

impl Nf4Matrix {
    /// Number of blocks, the last one perhaps partial.
    pub fn blocks(&self) -> usize {
        (self.rows * self.cols).div_ceil(BLOCK)
    }

    /// The 4-bit code of element `i` (row-major).
    #[inline]
    pub fn code(&self, i: usize) -> u8 {
        let byte = self.codes[i / 2];
        if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// The value of element `i` (row-major) in f32.
    #[inline]
    pub fn value(&self, i: usize) -> f32 {
        CODEBOOK[self.code(i) as usize] * self.absmax.get(i / BLOCK)
    }

    /// Decodes the elements `range` (row-major) in f32; `out` has the range's length.
    ///
    /// The plain way, for tests and exports: the linear's own decode lives in `ops`.
    pub fn decode_f32(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(out.len(), range.len(), "decode_f32: one output for each element");
        for (out, i) in out.iter_mut().zip(range) {
            *out = self.value(i);
        }
    }

    /// All elements in f32, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.rows * self.cols];
        self.decode_f32(0..self.rows * self.cols, &mut out);
        out
    }
}
