//! The three products of a tile, over the keys that are seen. All have one form, rows of A broadcast against
//! vectors of B, so nothing is ever summed across lanes.

use std::ops::Range;

use super::mask::Mask;
use super::tile::{KEYS, LANES, whole_vectors};
use crate::device::cpu::Level;

/// S = Q·Kᵀ where any row of a strip sees the key; elsewhere S is left stale.
///
/// q `[rows, pitch]`, k_t `[head_dim, KEYS]`, s `[rows, KEYS]`.
#[inline(never)]
pub(super) fn scores(
    level: Level,
    mask: Mask,
    rows: usize,
    (q, pitch): (&[f32], usize),
    k_t: &[f32],
    s: &mut [f32],
) {
    let depth = k_t.len() / KEYS;
    let a = Left::<false> { data: q, pitch };
    let product = Product { rows, b: k_t, b_pitch: KEYS, c_pitch: KEYS };
    let bounds = |r: Range<usize>| (whole_vectors(&mask.seen_by(r)), 0..depth);
    product.run::<false, false>(level, a, s, bounds);
}

/// C += P·B over the keys that are seen: p `[rows, KEYS]`, b `[KEYS, pitch]`, c `[rows, pitch]`.
#[inline(never)]
pub(super) fn add_rows(
    level: Level,
    mask: Mask,
    rows: usize,
    p: &[f32],
    (b, pitch): (&[f32], usize),
    c: &mut [f32],
) {
    let a = Left::<false> { data: p, pitch: KEYS };
    let product = Product { rows, b, b_pitch: pitch, c_pitch: pitch };
    let bounds = |r: Range<usize>| (0..pitch, mask.seen_by(r));
    product.run::<false, true>(level, a, c, bounds);
}

/// C += Pᵀ·B over the rows that see a key: p `[rows, KEYS]`, b `[rows, pitch]`,
/// c `[keys, pitch]`.
#[inline(never)]
pub(super) fn add_columns(
    level: Level,
    mask: Mask,
    rows: usize,
    p: &[f32],
    (b, pitch): (&[f32], usize),
    c: &mut [f32],
) {
    let a = Left::<true> { data: p, pitch: KEYS };
    let product = Product { rows: mask.keys, b, b_pitch: pitch, c_pitch: pitch };
    let bounds = |keys: Range<usize>| {
        let seeing = mask.seeing(keys);
        (0..pitch, seeing.start.min(rows)..seeing.end.min(rows))
    };
    product.run::<true, true>(level, a, c, bounds);
}

/// The left factor: element (i, k) is at `i * pitch + k`, or `k * pitch + i` when transposed.
#[derive(Clone, Copy)]
struct Left<'a, const T: bool> {
    data: &'a [f32],
    pitch: usize,
}

struct Product<'a> {
    rows: usize,
    b: &'a [f32],
    b_pitch: usize,
    c_pitch: usize,
}

impl Product<'_> {
    /// `bounds` gives the columns of C and the depth that matter for a strip of rows.
    #[inline(always)]
    fn run<const T: bool, const ADD: bool>(
        &self,
        level: Level,
        a: Left<T>,
        c: &mut [f32],
        bounds: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>),
    ) {
        if level == Level::PORTABLE {
            // SSE2 has 16 registers of 4 lanes, and mul_add would be a library call.
            self.strips::<T, ADD, false, 4, 8>(a, c, &bounds);
        } else {
            level.vectorize(
                #[inline(always)]
                || self.strips::<T, ADD, true, 6, 64>(a, c, &bounds),
            );
        }
    }

    #[inline(always)]
    fn strips<const T: bool, const ADD: bool, const FMA: bool, const MR: usize, const W: usize>(
        &self,
        a: Left<T>,
        c: &mut [f32],
        bounds: &impl Fn(Range<usize>) -> (Range<usize>, Range<usize>),
    ) {
        let mut row = 0;
        while row + MR <= self.rows {
            let (columns, depth) = bounds(row..row + MR);
            self.strip::<T, ADD, FMA, MR, W>(row, a, c, columns, depth);
            row += MR;
        }
        if row + 3 <= self.rows {
            let (columns, depth) = bounds(row..row + 3);
            self.strip::<T, ADD, FMA, 3, W>(row, a, c, columns, depth);
            row += 3;
        }
        while row < self.rows {
            let (columns, depth) = bounds(row..row + 1);
            self.strip::<T, ADD, FMA, 1, W>(row, a, c, columns, depth);
            row += 1;
        }
    }

    #[inline(always)]
    fn strip<const T: bool, const ADD: bool, const FMA: bool, const MR: usize, const W: usize>(
        &self,
        row: usize,
        a: Left<T>,
        c: &mut [f32],
        columns: Range<usize>,
        depth: Range<usize>,
    ) {
        let mut column = columns.start;
        while column + W <= columns.end {
            self.kernel::<T, ADD, FMA, MR, W>(row, column, a, c, depth.clone());
            column += W;
        }
        // Columns are whole vectors of LANES.
        match (columns.end - column) / LANES {
            0 => {}
            1 => self.kernel::<T, ADD, FMA, MR, 16>(row, column, a, c, depth),
            2 => self.kernel::<T, ADD, FMA, MR, 32>(row, column, a, c, depth),
            _ => self.kernel::<T, ADD, FMA, MR, 48>(row, column, a, c, depth),
        }
    }

    /// MR rows by W columns of C, kept in registers over the whole depth.
    #[inline(always)]
    fn kernel<const T: bool, const ADD: bool, const FMA: bool, const MR: usize, const W: usize>(
        &self,
        row: usize,
        column: usize,
        a: Left<T>,
        c: &mut [f32],
        depth: Range<usize>,
    ) {
        let mut acc = [[0f32; W]; MR];
        if ADD {
            for (i, acc) in acc.iter_mut().enumerate() {
                acc.copy_from_slice(&c[(row + i) * self.c_pitch + column..][..W]);
            }
        }
        let len = depth.len();
        let b = self.b[depth.start * self.b_pitch..].chunks_exact(self.b_pitch).take(len);
        let b = b.map(|line| &line[column..][..W]);
        if T {
            let lines = a.data[depth.start * a.pitch..].chunks_exact(a.pitch);
            for (b, line) in b.zip(lines) {
                let a = &line[row..][..MR];
                step::<FMA, MR, W>(&mut acc, |i| a[i], b);
            }
        } else {
            let rows: [&[f32]; MR] =
                std::array::from_fn(|i| &a.data[(row + i) * a.pitch + depth.start..][..len]);
            for (k, b) in b.enumerate() {
                step::<FMA, MR, W>(&mut acc, |i| rows[i][k], b);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            c[(row + i) * self.c_pitch + column..][..W].copy_from_slice(acc);
        }
    }
}

#[inline(always)]
fn step<const FMA: bool, const MR: usize, const W: usize>(
    acc: &mut [[f32; W]; MR],
    a: impl Fn(usize) -> f32,
    b: &[f32],
) {
    for i in 0..MR {
        let a = a(i);
        for (acc, &b) in acc[i].iter_mut().zip(b) {
            *acc = if FMA { a.mul_add(b, *acc) } else { a * b + *acc };
        }
    }
}
