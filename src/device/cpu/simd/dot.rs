//! Sums over k for few rows: 32 output features at a time, from the weights' own rows.
//!
//! The tile GEMM has weights packed into panels, which pays when many rows read them. For few rows
//! weights are decoded or turned in registers and multiplied at once. A sum is the tile's, bit for bit:
//! each output has one f32 accumulator, into which pairs of k go in order. So the lanes are output
//! features, though a row of a weight lies along k: lanes along k would save the turning, but then a
//! row's result would depend on how many rows are computed beside it.

#[cfg(target_arch = "x86_64")]
mod avx512bf16;

use half::bf16;

use super::{Level, NR, Nf4Codes, rows_fit};

/// Most rows that are few.
pub const FEW: usize = 8;

/// Running sums: 32 output features for each row of x.
pub type Sums = [[f32; NR]; FEW];

/// The left operand: up to [`FEW`] rows at a pitch.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    pub data: &'a [bf16],
    pub ld: usize,
    pub m: usize,
}

/// Whether this level has the sums of this module, over `k` elements: pairs of them.
pub fn has_few(level: Level, k: usize) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = level.0 == super::Set::Avx512Bf16;
    #[cfg(not(target_arch = "x86_64"))]
    let has = { level != level };
    has && k.is_multiple_of(2)
}

/// `sums[r][j] += Σ_k x[r, k] · W[row0 + j, k]` for `rows` ≤ 32 rows of an NF4 matrix whose width is a
/// multiple of 64; what comes after them is fetched. Sums of other rows are arbitrary.
///
/// Panics where slices are too short, and on a level without [`has_few`].
pub fn add_nf4<S: Fn(usize) -> f32>(
    level: Level,
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    x: Left,
    sums: &mut Sums,
) {
    assert!(has_few(level, nf4.cols) && nf4.cols.is_multiple_of(64), "no such sums");
    assert!((1..=NR).contains(&rows) && (1..=FEW).contains(&x.m), "rows out of range");
    assert!(rows_fit(x.data.len(), x.ld, x.m, nf4.cols), "x too short");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level's features are there; x was checked, codes are sliced with checks inside.
    unsafe {
        match x.m {
            1 => avx512bf16::nf4::<1, S>(nf4, row0, rows, x, sums),
            2 => avx512bf16::nf4::<2, S>(nf4, row0, rows, x, sums),
            3 => avx512bf16::nf4::<3, S>(nf4, row0, rows, x, sums),
            4 => avx512bf16::nf4::<4, S>(nf4, row0, rows, x, sums),
            5 => avx512bf16::nf4::<5, S>(nf4, row0, rows, x, sums),
            6 => avx512bf16::nf4::<6, S>(nf4, row0, rows, x, sums),
            7 => avx512bf16::nf4::<7, S>(nf4, row0, rows, x, sums),
            _ => avx512bf16::nf4::<8, S>(nf4, row0, rows, x, sums),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row0, sums);
}

/// As [`add_nf4`], for rows of bf16: `w[n, k]` without gaps.
pub fn add_bf16(
    level: Level,
    w: &[bf16],
    k: usize,
    row0: usize,
    rows: usize,
    x: Left,
    sums: &mut Sums,
) {
    assert!(has_few(level, k), "no such sums");
    assert!((1..=NR).contains(&rows) && (1..=FEW).contains(&x.m), "rows out of range");
    assert!(rows_fit(x.data.len(), x.ld, x.m, k), "x too short");
    let w = row0.checked_mul(k).and_then(|start| w.get(start..)).unwrap_or(&[]);
    assert!(rows_fit(w.len(), k, rows, k), "w too short");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level's features are there; both operands were checked.
    unsafe {
        match x.m {
            1 => avx512bf16::rows::<1>(w.as_ptr(), rows, k, x, sums),
            2 => avx512bf16::rows::<2>(w.as_ptr(), rows, k, x, sums),
            3 => avx512bf16::rows::<3>(w.as_ptr(), rows, k, x, sums),
            4 => avx512bf16::rows::<4>(w.as_ptr(), rows, k, x, sums),
            5 => avx512bf16::rows::<5>(w.as_ptr(), rows, k, x, sums),
            6 => avx512bf16::rows::<6>(w.as_ptr(), rows, k, x, sums),
            7 => avx512bf16::rows::<7>(w.as_ptr(), rows, k, x, sums),
            _ => avx512bf16::rows::<8>(w.as_ptr(), rows, k, x, sums),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, sums);
}
