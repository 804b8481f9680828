//! What one tile of attention is made of: rows loaded into f32 scratch and stored from it.
//!
//! A tile is up to `block_q * group` query rows by `KEYS` keys. Query row r is token r / group,
//! head r % group of the group: the heads that share a key head are rows of one product, so that
//! a key tile is loaded once for all of them.

use std::cell::RefCell;
use std::ops::Range;

use crate::device::cpu::{Element, Level};

/// Keys in one tile, and the pitch of scores.
pub const KEYS: usize = 64;
/// Lanes that the loops are written for: one AVX-512 vector, four SSE ones.
pub(super) const LANES: usize = 16;

/// `x` rounded up to whole vectors.
pub(super) fn pad(x: usize) -> usize {
    x.next_multiple_of(LANES)
}

/// `range` widened to whole vectors.
#[inline(always)]
pub(super) fn whole_vectors(range: &Range<usize>) -> Range<usize> {
    range.start / LANES * LANES..pad(range.end)
}

/// The whole vectors of a row that have what is `seen` of it, which comes back counted from their first
/// element; the rest of the row becomes 0.
#[inline(always)]
pub(super) fn live(row: &mut [f32], seen: Range<usize>) -> (&mut [f32], Range<usize>) {
    let whole = whole_vectors(&seen);
    let (row, behind) = row.split_at_mut(whole.end);
    let (before, row) = row.split_at_mut(whole.start);
    before.fill(0.0);
    behind.fill(0.0);
    (row, seen.start - whole.start..seen.end - whole.start)
}

/// Which lanes of vector `n` of a row are in `seen`; one that begins at 0 where the tile has no `EDGE` of a
/// window. Numbers as wide as the elements, so that asking all lanes is a comparison of whole vectors.
#[inline(always)]
pub(super) fn lanes<const EDGE: bool>(seen: &Range<usize>, n: usize) -> impl Fn(usize) -> bool {
    let lane = |key: usize| key as i32 - (n * LANES) as i32;
    let (start, end) = (lane(seen.start), lane(seen.end));
    move |l| (l as i32) < end && (!EDGE || l as i32 >= start)
}

/// One cache line, so that scratch is aligned for whole vectors.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

thread_local! {
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lends this thread's scratch: one slice per length in `lens`, contents stale. `f` must not ask for
/// it again: what it starts with `cpu.each` would run on this thread.
pub(super) fn with_scratch<const N: usize>(lens: [usize; N], f: impl FnOnce([&mut [f32]; N])) {
    SCRATCH.with_borrow_mut(|lines| {
        let want = lens.iter().map(|len| len.div_ceil(LANES)).sum();
        if lines.len() < want {
            lines.resize(want, Line([0.0; LANES]));
        }
        let mut rest = lines.as_mut_slice();
        f(lens.map(|len| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len.div_ceil(LANES));
            rest = tail;
            &mut bytemuck::cast_slice_mut(head)[..len]
        }));
    });
}

/// Grows this thread's scratch to the most that a block of `rows` query rows needs: what the
/// backward pass has of panels, key tiles in both orders, score tiles and statistics.
pub fn reserve(rows: usize, head_dim: usize) {
    let (panel, tile) = (rows * pad(head_dim), rows * KEYS);
    let (turned, flat) = (head_dim * KEYS, KEYS * pad(head_dim));
    let lens = [panel, panel, panel, turned, turned, flat, flat, tile, tile, rows, rows];
    with_scratch(lens, |_| ());
}

/// A head's rows in a packed `[T, width]` matrix: `rows`, `group` heads from column `column`.
pub(super) struct Rows<'a, E> {
    pub data: &'a [E],
    pub width: usize,
    pub rows: Range<usize>,
    pub column: usize,
    pub group: usize,
    pub head_dim: usize,
}

impl<'a, E: Element> Rows<'a, E> {
    /// `dst[r, :] = factor * row r`, of pitch `pad(head_dim)`, padded with zeros.
    pub fn load(&self, level: Level, factor: f32, dst: &mut [f32]) {
        level.vectorize(
            #[inline(always)]
            || {
                let (d, pitch) = (self.head_dim, pad(self.head_dim));
                let mut at = 0;
                for t in self.rows.clone() {
                    let token = &self.data[t * self.width + self.column..][..self.group * d];
                    for g in 0..self.group {
                        let src = &token[g * d..][..d];
                        let out = &mut dst[at..][..pitch];
                        let (out, _) = out.as_chunks_mut::<LANES>();
                        let (src, tail) = src.as_chunks::<LANES>();
                        for (y, x) in out.iter_mut().zip(src) {
                            *y = widen(x, factor);
                        }
                        if !tail.is_empty() {
                            let mut last = [E::zeroed(); LANES];
                            last[..tail.len()].copy_from_slice(tail);
                            out[src.len()] = widen(&last, factor);
                        }
                        at += pitch;
                    }
                }
            },
        );
    }

    /// `dst[c, j] = row j, column c`, of pitch `KEYS`, for one head (`group` is 1). Columns up to
    /// the next whole vector are zero.
    pub fn load_transposed(&self, level: Level, dst: &mut [f32]) {
        level.vectorize(
            #[inline(always)]
            || {
                let (mut a, mut b) = ([E::zeroed(); SQUARE], [E::zeroed(); SQUARE]);
                for n in 0..self.rows.len().div_ceil(LANES) {
                    for column in (0..self.head_dim).step_by(LANES) {
                        self.square(self.rows.start + n * LANES, column, &mut a);
                        transpose(&mut a, &mut b);
                        let width = (self.head_dim - column).min(LANES);
                        for c in 0..width {
                            let out = &mut dst[(column + c) * KEYS + n * LANES..];
                            if let (Some(y), Some(x)) =
                                (out.first_chunk_mut(), a[c * LANES..].first_chunk::<LANES>())
                            {
                                *y = widen(x, 1.0);
                            }
                        }
                    }
                }
            },
        );
    }

    /// Copies `LANES` rows from `first` by `LANES` columns from `column`; zero beyond the rows and
    /// columns there are.
    #[inline(always)]
    fn square(&self, first: usize, column: usize, out: &mut [E; SQUARE]) {
        let rows = (self.rows.end - first).min(LANES);
        let columns = (self.head_dim - column).min(LANES);
        let at = first * self.width + self.column + column;
        if rows == LANES && columns == LANES {
            for r in 0..LANES {
                let src = &self.data[at + r * self.width..][..LANES];
                for c in 0..LANES {
                    out[r * LANES + c] = src[c];
                }
            }
        } else {
            *out = [E::zeroed(); SQUARE];
            for r in 0..rows {
                for c in 0..columns {
                    out[r * LANES + c] = self.data[at + r * self.width + c];
                }
            }
        }
    }
}

/// One vector of values times `factor`. An array and not a slice: with a length that the compiler
/// knows it makes one vector of it, and does not try the loops around it.
#[inline(always)]
fn widen<E: Element>(x: &[E; LANES], factor: f32) -> [f32; LANES] {
    let mut y = [0.0; LANES];
    for l in 0..LANES {
        y[l] = x[l].to_f32() * factor;
    }
    y
}

const SQUARE: usize = LANES * LANES;

/// Transposes a square of `LANES` in `a`, by way of `b`.
#[inline(always)]
fn transpose<E: Element>(a: &mut [E; SQUARE], b: &mut [E; SQUARE]) {
    for _ in 0..LANES.ilog2() / 2 {
        interleave(a, b);
        interleave(b, a);
    }
}

/// Shuffles the halves of `from` into each other like cards. That moves every bit of an index up
/// by one and the top one to the bottom; four times swaps row and column. It compiles to vector
/// shuffles, where reading a column compiles to single loads.
#[inline(always)]
fn interleave<E: Element>(from: &[E; SQUARE], to: &mut [E; SQUARE]) {
    for i in 0..SQUARE / 2 {
        to[2 * i] = from[i];
        to[2 * i + 1] = from[i + SQUARE / 2];
    }
}

/// `rows[r, :] * factor` rounded to `E` into a packed matrix, token by token (see `Rows`).
pub(super) fn store<E: Element>(
    level: Level,
    src: &[f32],
    factor: f32,
    dst: &mut [E],
    (width, column): (usize, usize),
    (group, head_dim): (usize, usize),
) {
    level.vectorize(
        #[inline(always)]
        || {
            let mut src = src.chunks_exact(pad(head_dim));
            for token in dst.chunks_exact_mut(width) {
                let token = &mut token[column..][..group * head_dim];
                for (out, row) in token.chunks_exact_mut(head_dim).zip(&mut src) {
                    for (y, x) in out.iter_mut().zip(row) {
                        *y = E::from_f32(x * factor);
                    }
                }
            }
        },
    );
}
