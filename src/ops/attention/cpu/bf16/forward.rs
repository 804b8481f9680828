//! Forward, and attention over the cache: online softmax over stretches of keys that fit the caches.
//!
//! A task has a block of one document's queries and one key head. Keys and values are packed a stretch at a
//! time, and every tile of query rows goes through scores, softmax and P·V while its scores are in L1.

use half::bf16;

use super::{Dims, Heads, Level, Mask, NR, Queries, pack_channels, pack_rows, padded, store};
use super::{tile_height, with_scratch};
use crate::device::cpu::Rectangle;
use crate::device::cpu::simd::MR;
use crate::device::cpu::simd::product::{Part, Tile, product, tile_rows};
use crate::device::cpu::simd::softmax::{Rows, softmax};

/// Keys of a stretch: packed with their values 64 KB at head_dim 64, scores of a tile 12 KB.
const STRETCH: usize = 256;
/// Query rows aimed at for a task: packing costs some hundredths of the products with so many.
const ROWS: usize = 384;

/// Queries in one block.
pub fn block_q(dims: &Dims) -> usize {
    (ROWS / dims.group()).clamp(32, 128)
}

/// Grows this thread's scratch to what a block needs.
pub fn reserve(level: Level, dims: &Dims) {
    with_scratch(lens(level, dims, block_q(dims) * dims.group()), |_| ());
}

/// In f32: q, packed keys and values, scores and probabilities of a tile, sums of rows, statistics.
fn lens(level: Level, dims: &Dims, rows: usize) -> [usize; 9] {
    let (d, height) = (dims.head_dim, tile_rows(level));
    let (half, width) = (STRETCH / 2, padded(d));
    let scores = (STRETCH / NR - 1) * height * NR + MR * NR;
    [rows * d / 2, half * d, half * width, scores, height * half, rows * width, rows, rows, height]
}

/// Fills o, and lse where it has columns, for these queries and one key head.
pub fn attend(
    level: Level,
    dims: &Dims,
    kv_head: usize,
    queries: &Queries<'_, bf16>,
    o: &mut Rectangle<'_, bf16>,
    lse: &mut Rectangle<'_, f32>,
) {
    let (d, group) = (dims.head_dim, dims.group());
    let (qw, kw, width) = (dims.q_width(), dims.kv_width(), padded(d));
    let tokens = queries.q.len() / qw;
    let (rows, keys) = (tokens * group, queries.position + tokens);
    let height = tile_height(level, rows);
    // Scores are in base 2.
    let factor = dims.scale * std::f32::consts::LOG2_E;
    with_scratch(lens(level, dims, rows), |[q, k, v, s, p, acc, max, sum, rescale]| {
        let [q, k, v, p] = [q, k, v, p].map(bytemuck::cast_slice_mut::<f32, bf16>);
        let heads =
            Heads { data: queries.q, width: qw, column: kv_head * group * d, group, head_dim: d };
        heads.copy(0, 0..rows, q);
        max.fill(f32::NEG_INFINITY);
        sum.fill(0.0);
        // Stretches are counted from the document's start, wherever the window begins.
        let skipped = dims.first_key(queries.position) / STRETCH * STRETCH;
        for first in (skipped..keys).step_by(STRETCH) {
            let count = STRETCH.min(keys - first);
            let column = kv_head * d;
            pack_rows(level, &queries.k[first * kw + column..], kw, count, d, k);
            let values = (&queries.v[first * kw..], kw, column);
            pack_channels(level, values, count, d, (v, STRETCH * NR));
            let mask = Mask::new(dims, queries.position, first, count);
            for top in (0..rows).step_by(height) {
                let bottom = rows.min(top + height);
                let (n, seen) = (bottom - top, mask.seen_by(top..bottom));
                if seen.is_empty() {
                    continue;
                }
                // The panels that have a key that is seen; what follows counts from their first one.
                let (panel, before) = (seen.start / NR, seen.start / NR * NR);
                let (panels, stride) = (seen.end.div_ceil(NR) - panel, height * NR);
                let packed = k[panel * d * NR..].chunks_exact(d * NR);
                for (panel, k) in packed.take(panels).enumerate() {
                    let part = Part { a: &q[top * d..], lda: d, k: d, panel: k };
                    product(level, n, NR, [part].into_iter(), tile(&mut s[panel * stride..]));
                }
                let stats = Rows {
                    max: &mut max[top..bottom],
                    sum: &mut sum[top..bottom],
                    rescale: &mut rescale[..n],
                };
                let seen_by = |r: usize| {
                    let seen = mask.seen(top + r);
                    seen.start - before..seen.end - before
                };
                softmax(level, factor, (s, stride, panels), seen_by, stats, p);
                // Pairs of keys: beyond those that are seen P is 0.
                let depth = seen.end.next_multiple_of(2).min(count) - before;
                // The first stretch that the tile sees anything of.
                let fresh = first <= dims.first_key(queries.position + top / group);
                for (c, v) in v.chunks(STRETCH * NR).enumerate() {
                    let panel = &v[before * NR..];
                    let part = Part { a: p, lda: panels * NR, k: depth, panel };
                    let out = tile(s);
                    product(level, n, NR.min(d - c * NR), [part].into_iter(), out);
                    let acc = &mut acc[top * width + c * NR..];
                    add(level, fresh, &out[..n * NR], &rescale[..n], (acc, width));
                }
            }
        }
        for (row, acc) in acc.chunks_exact(width).take(rows).enumerate() {
            let (token, g) = (row / group, row % group);
            store(level, acc, 1.0 / sum[row], &mut o.row(token)[g * d..][..d]);
            if lse.width() > 0 {
                lse.row(token)[g] = max[row] * std::f32::consts::LN_2 + sum[row].ln();
            }
        }
    });
}

/// The first floats of `scores` as a register tile.
fn tile(scores: &mut [f32]) -> &mut Tile {
    scores.first_chunk_mut().expect("scores of a tile")
}

/// `acc = acc * rescale + out` by rows, or `out` where nothing was summed before.
fn add(level: Level, fresh: bool, out: &[f32], rescale: &[f32], (acc, pitch): (&mut [f32], usize)) {
    level.vectorize(
        #[inline(always)]
        || {
            let rows = out.as_chunks::<NR>().0.iter().zip(rescale);
            for (acc, (out, &factor)) in acc.chunks_mut(pitch).zip(rows) {
                let Some(acc) = acc.first_chunk_mut::<NR>() else { continue };
                if fresh {
                    *acc = *out;
                } else {
                    for l in 0..NR {
                        acc[l] = acc[l] * factor + out[l];
                    }
                }
            }
        },
    );
}
