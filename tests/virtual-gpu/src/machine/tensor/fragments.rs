//! Which lane and register holds which element of a matrix.
//!
//! PTX manual, sections "Matrix Fragments for mma.m…n…k…" and "ldmatrix". All shapes of mma but the f16
//! m8n8k4 of sm_70 follow one rule. A 32-bit register of all 32 lanes holds a tile of 8 rows (of 8 columns
//! for B) by 4·E elements along k, where E = 32 / bits is the number of elements in it, lowest bits first;
//! lane l has row l / 4 and the E elements from (l % 4)·E on. A tile is thus the register file's
//! `[u32; 32]` read as a row-major matrix, and so is what a row of ldmatrix brings. In f64 a register
//! holds one element (E = 1).

use crate::machine::registers::{LANES, W32};

/// Row and column in A (M × K) of element `e` of `register` in `lane`; `per` elements a register.
#[inline(always)]
pub const fn a(per: usize, register: usize, lane: usize, e: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register % 2), register / 2 * 4 * per + lane % 4 * per + e)
}

/// Row and column in B (K × N) of element `e` of `register` in `lane`; `per` elements a register.
#[inline(always)]
pub const fn b(per: usize, register: usize, lane: usize, e: usize) -> (usize, usize) {
    (register * 4 * per + lane % 4 * per + e, lane / 4)
}

/// Row and column in C or D (M × N) of accumulator `i` of `lane`: with 32 or 64 bits that is register i,
/// with f16 it is half i % 2 of register i / 2.
#[inline(always)]
pub const fn c(i: usize, lane: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

/// The elements of a tile's row (or column of B), given by the four lanes that hold it.
#[inline(always)]
pub fn unpack<const PER: usize, T>(words: &[u32; 4], out: &mut [T], value: impl Fn(u32) -> T) {
    let bits = 32 / PER;
    for (i, out) in out.iter_mut().enumerate() {
        *out = value(words[i / PER] >> (bits * (i % PER)) & (u32::MAX >> (32 - bits)));
    }
}

/// The transpose of an 8 × 8 matrix of 16-bit elements: ldmatrix.trans, movmatrix.
pub fn transpose(tile: &W32) -> W32 {
    let half =
        |row: usize, column: usize| tile[row * 4 + column / 2] >> (16 * (column % 2)) & 0xFFFF;
    let mut out = [0; LANES];
    for (lane, word) in out.iter_mut().enumerate() {
        let (row, column) = (lane / 4, lane % 4 * 2);
        *word = half(column, row) | half(column + 1, row) << 16;
    }
    out
}
