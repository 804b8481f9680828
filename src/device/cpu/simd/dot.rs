//! Sums over k for few rows: 32 output features at a time, from the weights' own rows.
//!
//! The tile GEMM has weights packed into panels, which pays when many rows read them. For few rows
//! weights are decoded or turned in registers and multiplied at once. A sum is the tile's, bit for bit:
//! each output has its own f32 accumulator, into which k goes in the tile's order. So the lanes are output
//! features, though a row of a weight lies along k: lanes along k would save the turning, but then a
//! row's result would depend on how many rows are computed beside it. On `amx_bf16` the weights are a tile
//! product's other operand, and the sums the same.

#[cfg(target_arch = "x86_64")]
mod amx_bf16;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::Set;
use super::{Level, NR, Nf4Codes, rows_fit};

/// Most rows that are few on any level.
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

/// Most rows of which this level has the sums of this module, over `k` elements: pairs of them.
pub fn few_rows(level: Level, k: usize) -> usize {
    match (level.0, k.is_multiple_of(2)) {
        #[cfg(target_arch = "x86_64")]
        (Set::Avx512Bf16 | Set::AmxBf16, true) => FEW,
        _ => 0,
    }
}

/// Calls the level's sum, written for any number of rows or for each.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($level:expr, $m:expr, $sum:ident($($argument:expr),*)) => {
        match ($level.0, $m) {
            (Set::AmxBf16, _) => amx_bf16::$sum($($argument),*),
            (_, 1) => avx512bf16::$sum::<1>($($argument),*),
            (_, 2) => avx512bf16::$sum::<2>($($argument),*),
            (_, 3) => avx512bf16::$sum::<3>($($argument),*),
            (_, 4) => avx512bf16::$sum::<4>($($argument),*),
            (_, 5) => avx512bf16::$sum::<5>($($argument),*),
            (_, 6) => avx512bf16::$sum::<6>($($argument),*),
            (_, 7) => avx512bf16::$sum::<7>($($argument),*),
            (_, _) => avx512bf16::$sum::<8>($($argument),*),
        }
    };
}

/// `sums[r][j] += Σ_k x[r, k] · W[row0 + j, k]` for `rows` ≤ 32 rows of an NF4 matrix whose width is a
/// multiple of 64; what comes after them is fetched. Sums of other rows are arbitrary. `nf4.scale(first,
/// out)` fills out with the scales of the blocks from the first on.
///
/// Panics where slices are too short, and where x has more rows than [`few_rows`].
pub fn add_nf4<S: Fn(usize, &mut [f32])>(
    level: Level,
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    x: Left,
    sums: &mut Sums,
) {
    assert!(nf4.cols.is_multiple_of(64), "no such sums");
    assert!((1..=NR).contains(&rows), "rows out of range");
    assert!((1..=few_rows(level, nf4.cols)).contains(&x.m), "rows of x out of range");
    assert!(rows_fit(x.data.len(), x.ld, x.m, nf4.cols), "x too short");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level's features are there; x was checked, codes are sliced with checks inside.
    unsafe {
        by_rows!(level, x.m, nf4(nf4, row0, rows, x, sums))
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
    assert!((1..=NR).contains(&rows), "rows out of range");
    assert!((1..=few_rows(level, k)).contains(&x.m), "rows of x out of range");
    assert!(rows_fit(x.data.len(), x.ld, x.m, k), "x too short");
    let w = row0.checked_mul(k).and_then(|start| w.get(start..)).unwrap_or(&[]);
    assert!(rows_fit(w.len(), k, rows, k), "w too short");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level's features are there; both operands were checked.
    unsafe {
        by_rows!(level, x.m, rows(w.as_ptr(), rows, k, x, sums))
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (w, sums);
}
