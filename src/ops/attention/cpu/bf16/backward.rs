//! Backward in one pass of five products, by blocks of queries and keys.
//!
//! ```text
//!             queries
//!           0   1   2   3      a document of four blocks: task (keys, queries) adds to dq of its
//!         ┌───┬───┬───┬───┐    queries, dk and dv of its keys. Tasks of one number share neither,
//!       0 │ 0 │ 1 │ 2 │ 3 │    so they run at once, one number after the other: every sum has
//! keys    ├───┼───┼───┼───┤    one order, whatever the number of threads.
//!       1 │   │ 0 │ 1 │ 2 │
//!         └───┴───┴───┴───┘
//! ```
//!
//! With a window there are only as many numbers as it reaches back in blocks.
//!
//! Inside a task scores are turned: a row of a tile is a key, its columns are 32 query rows, so that
//! P and dS are left operands (of dv and dk) as they come out of the exponentials, in blocks of 32
//! queries. dq is summed turned as well, `[channel][query]`, with dS packed by pairs of keys.

use std::ops::Range;

use half::bf16;

use super::sums::{block_len, most_slots, sums, with_sums};
use super::{
    Dims, Heads, Level, Mask, NR, Saved, copy_channels, pack_channels, pack_rows, padded, store,
};
use super::{tile_height, with_scratch};
use crate::device::cpu::documents::{Block, Cut, Side};
use crate::device::cpu::simd::MR;
use crate::device::cpu::simd::product::{MAX_PARTS, Part, TURNED, Tile, product, turn};
use crate::device::cpu::simd::softmax::gradients;
use crate::device::cpu::{Cpu, Element, Rectangle};

/// Query rows that are packed together: what a sum of dk is added up over before it leaves registers.
const CHUNK: usize = MAX_PARTS * NR;

/// What backward writes.
pub struct Gradients<'a> {
    pub delta: &'a mut [f32],
    pub dq: &'a mut [bf16],
    pub dk: &'a mut [bf16],
    pub dv: &'a mut [bf16],
}

/// The most blocks of keys that a block of queries sees: its own, and those of the window - 1 keys before it.
fn blocks_seen(dims: &Dims) -> usize {
    1 + (dims.reach() - 1).div_ceil(block_len(dims))
}

/// Grows every thread's scratch to what a block needs, and the calling one's to the sums of documents of
/// `tokens` tokens together.
pub fn reserve(cpu: &Cpu, dims: &Dims, tokens: usize) {
    let size = block_len(dims).min(tokens);
    cpu.broadcast(|| with_scratch(lens(dims, size, size, true), |_| ()));
    with_sums(most_slots(dims, tokens), dims, |_, _| ());
}

/// Overwrites what `Gradients` has; shapes were checked.
pub fn backward(cpu: &Cpu, saved: &Saved<'_, bf16>, cu_seqlens: &[u32], out: Gradients<'_>) {
    let dims = saved.dims;
    let Gradients { delta, dq, dk, dv } = out;
    let cut = Cut::new(cu_seqlens, block_len(dims), dims.kv_heads);
    let (q_len, kv_len) = sums(dims, block_len(dims));
    with_sums(cut.slots() * dims.kv_heads, dims, |q_sums, kv_sums| {
        let distances = cut.longest().min(blocks_seen(dims));
        for distance in 0..distances {
            let cut = cut.apart(distance);
            let last = distance + 1 == distances;
            let blocks = (
                cut.pairs(),
                cut.rows_mut(Side::Later, delta, dims.heads),
                cut.rows_mut(Side::Later, dq, dims.q_width()),
                cut.rows_mut(Side::Earlier, dk, dims.kv_width()),
                cut.rows_mut(Side::Earlier, dv, dims.kv_width()),
                cut.slots_mut(Side::Later, q_sums, q_len),
                cut.slots_mut(Side::Earlier, kv_sums, kv_len),
            );
            cpu.blocks(blocks, |((queries, keys), delta, dq, dk, dv, q_sums, kv_sums)| {
                let task = Task { level: cpu.level, saved, queries, keys, last };
                task.run((q_sums, kv_sums), delta, dq, dk, dv);
            });
        }
    });
}

/// In f32, for blocks of `tokens` queries and `keys` keys: k, v and kᵀ; q, d_o (or o) as rows and in both
/// kinds of panels; P, dS, dS packed; lse and delta; the sums, if they are not kept elsewhere.
fn lens(dims: &Dims, tokens: usize, keys: usize, own_sums: bool) -> [usize; 16] {
    let (d, width) = (dims.head_dim, padded(dims.head_dim));
    let rows = CHUNK.min((tokens * dims.group()).next_multiple_of(NR));
    let (queries, both) = if own_sums { sums_of(dims, tokens, keys) } else { (0, 0) };
    [
        keys * d / 2,
        keys * d / 2,
        keys.next_multiple_of(TURNED) * width / 2,
        rows * d / 2,
        rows * d / 2,
        rows * d / 2,
        rows * d / 2,
        rows * width / 2,
        rows * width / 2,
        keys * rows / 2,
        keys * rows / 2,
        keys.next_multiple_of(2) * NR / 2,
        rows,
        rows,
        queries,
        both,
    ]
}

fn sums_of(dims: &Dims, tokens: usize, keys: usize) -> (usize, usize) {
    (sums(dims, tokens).0, sums(dims, keys).1)
}

/// A block of queries, and one of keys at or before it, of one key head.
struct Task<'a> {
    level: Level,
    saved: &'a Saved<'a, bf16>,
    queries: Block,
    keys: Block,
    /// Whether no blocks are further apart.
    last: bool,
}

impl<'a> Task<'a> {
    fn heads(&self, data: &'a [bf16], of_queries: bool) -> Heads<'a> {
        let dims = self.saved.dims;
        let (d, head) = (dims.head_dim, self.queries.column);
        let (width, group) =
            if of_queries { (dims.q_width(), dims.group()) } else { (dims.kv_width(), 1) };
        Heads { data, width, column: head * group * d, group, head_dim: d }
    }

    fn run(
        &self,
        (q_sums, kv_sums): (&mut [f32], &mut [f32]),
        mut delta_out: Rectangle<'_, f32>,
        mut dq: Rectangle<'_, bf16>,
        mut dk: Rectangle<'_, bf16>,
        mut dv: Rectangle<'_, bf16>,
    ) {
        let &Task { level, saved, queries, keys, last } = self;
        let dims = saved.dims;
        let (d, group, width) = (dims.head_dim, dims.group(), padded(dims.head_dim));
        let (rows, count) = (queries.rows() * group, keys.rows());
        let own_sums = q_sums.is_empty();
        let diagonal = queries.begin == keys.begin;
        let mask = Mask::new(dims, queries.begin, keys.begin, count);
        let factor = dims.scale * std::f32::consts::LOG2_E;
        let lens = lens(dims, queries.rows(), count, own_sums);
        let (chunk_rows, height) = (lens[12], tile_height(level, count));
        with_scratch(lens, |scratch| {
            let [
                k,
                v,
                k_turned,
                q,
                d_o,
                q_nt,
                d_o_nt,
                q_nn,
                d_o_nn,
                p,
                ds,
                ds_nn,
                lse,
                delta,
                sums,
                both,
            ] = scratch;
            let [k, v, k_turned, q, d_o, q_nt, d_o_nt, q_nn, d_o_nn, p, ds, ds_nn] =
                [k, v, k_turned, q, d_o, q_nt, d_o_nt, q_nn, d_o_nn, p, ds, ds_nn]
                    .map(bytemuck::cast_slice_mut::<f32, bf16>);
            let dq_acc = if own_sums { sums } else { q_sums };
            let kv_acc = if own_sums { both } else { kv_sums };
            if diagonal {
                dq_acc.fill(0.0);
                kv_acc.fill(0.0);
            }
            let middle = kv_acc.len() / 2;
            let (dk_acc, dv_acc) = kv_acc.split_at_mut(middle);
            let mut tiles = [[0.0; MR * NR]; 2];

            self.heads(saved.k, false).copy(keys.begin, 0..count, k);
            self.heads(saved.v, false).copy(keys.begin, 0..count, v);
            turn_keys(level, k, count, d, k_turned);

            for top in (0..rows).step_by(chunk_rows) {
                let n = chunk_rows.min(rows - top);
                let chunk = top..top + n;
                let seen = mask.seen_by(chunk.clone());
                if seen.is_empty() {
                    // The window ends before: later queries see none of these keys either.
                    break;
                }
                let lowest = seen.start / height * height;
                self.heads(saved.d_o, true).copy(queries.begin, chunk.clone(), d_o);
                self.load_stats(chunk.clone(), lse, delta, &mut delta_out, (diagonal, d_o, q));
                self.heads(saved.q, true).copy(queries.begin, chunk.clone(), q);
                pack_rows(level, q, d, n, d, q_nt);
                pack_rows(level, d_o, d, n, d, d_o_nt);
                pack_channels(level, (q, d, 0), n, d, (q_nn, chunk_rows * NR));
                pack_channels(level, (d_o, d, 0), n, d, (d_o_nn, chunk_rows * NR));

                for panel in 0..n.div_ceil(NR) {
                    let start = top + panel * NR;
                    let seen = mask.seen_by(start..rows.min(start + NR));
                    if seen.is_empty() {
                        break;
                    }
                    let [p, ds] = [&mut *p, &mut *ds].map(|x| &mut x[panel * count * NR..]);
                    let stats = (columns(lse, panel), columns(delta, panel));
                    let right = panel * d * NR..(panel + 1) * d * NR;
                    let lowest = seen.start / height * height;
                    for key in (lowest..seen.end).step_by(height) {
                        let m = height.min(count - key);
                        let [s, dp] = &mut tiles;
                        let product = |a: &[bf16], panel: &[bf16], out: &mut Tile| {
                            let part = Part { a: &a[key * d..], lda: d, k: d, panel };
                            product(level, m, NR, [part].into_iter(), out);
                        };
                        product(k, &q_nt[right.clone()], s);
                        product(v, &d_o_nt[right.clone()], dp);
                        let seeing = |j: usize| {
                            let rows = mask.seeing(key + j..key + j + 1);
                            rows.start.saturating_sub(start)..rows.end.saturating_sub(start)
                        };
                        let (p, ds) = (&mut p[key * NR..], &mut ds[key * NR..]);
                        gradients(level, factor, m, (s, dp), stats, seeing, p, ds);
                    }
                    // Products for dq begin with a whole square of turned keys.
                    let seen = lowest / TURNED * TURNED..seen.end;
                    ds[seen.start * NR..lowest * NR].fill(bf16::ZERO);
                    bf16_pairs(level, &ds[seen.start * NR..], seen.len(), ds_nn);
                    let acc = &mut dq_acc[start * width..];
                    add_dq(level, (k_turned, width), (ds_nn, seen), d, acc, &mut tiles[0]);
                }

                for key in (lowest..count).step_by(height) {
                    let m = height.min(count - key);
                    let seeing = mask.seeing(key..key + m);
                    let (first, end) = (seeing.start.max(top) - top, seeing.end.min(top + n) - top);
                    if first >= n {
                        break;
                    }
                    for (left, right, acc) in [(&*ds, &*q_nn, &mut *dk_acc), (p, d_o_nn, dv_acc)] {
                        for (c, right) in right.chunks(chunk_rows * NR).enumerate() {
                            let parts = (first / NR..end.div_ceil(NR)).map(|panel| Part {
                                a: &left[(panel * count + key) * NR..],
                                lda: NR,
                                k: NR.min(n - panel * NR),
                                panel: &right[panel * NR * NR..],
                            });
                            let out = &mut tiles[0];
                            product(level, m, NR.min(d - c * NR), parts, out);
                            add(level, &out[..m * NR], &mut acc[key * width + c * NR..], width);
                        }
                    }
                }
            }

            if last || keys.begin == keys.start {
                store_dq(level, dims, dq_acc, rows, &mut dq);
            }
            if last || queries.end == queries.stop {
                for key in 0..count {
                    let at = key * width..(key + 1) * width;
                    store(level, &dk_acc[at.clone()], dims.scale, dk.row(key));
                    store(level, &dv_acc[at], 1.0, dv.row(key));
                }
            }
        });
    }

    /// lse (in base 2) and delta of a chunk of query rows. The diagonal's task makes delta, of d_o and o,
    /// for which `o` lends room; the others read it.
    fn load_stats(
        &self,
        chunk: Range<usize>,
        lse: &mut [f32],
        delta: &mut [f32],
        delta_out: &mut Rectangle<'_, f32>,
        (diagonal, d_o, o): (bool, &[bf16], &mut [bf16]),
    ) {
        let &Task { level, saved, queries, .. } = self;
        let Dims { heads, head_dim, .. } = *saved.dims;
        let (group, n) = (saved.dims.group(), chunk.len());
        if diagonal {
            self.heads(saved.o, true).copy(queries.begin, chunk.clone(), o);
            let len = n * head_dim;
            super::super::backward::row_dots(
                level,
                head_dim,
                &d_o[..len],
                &o[..len],
                &mut delta[..n],
            );
        }
        for (i, r) in chunk.enumerate() {
            let (token, g) = (r / group, r % group);
            let at = (queries.begin + token) * heads + queries.column * group + g;
            lse[i] = saved.lse[at] * std::f32::consts::LOG2_E;
            let kept = &mut delta_out.row(token)[g];
            if diagonal { *kept = delta[i] } else { delta[i] = *kept }
        }
    }
}

/// Values of a panel's 32 columns.
fn columns(values: &[f32], panel: usize) -> &[f32; NR] {
    values[panel * NR..].first_chunk().expect("whole panels")
}

/// `[keys, d]` becomes, for every 64 keys, `[width][64]`.
fn turn_keys(level: Level, k: &[bf16], count: usize, d: usize, out: &mut [bf16]) {
    let (squares, _) = out.as_chunks_mut::<{ TURNED * NR }>();
    let across = d.div_ceil(NR);
    for (i, square) in squares.iter_mut().enumerate() {
        let (keys, column) = (i / across * TURNED, i % across * NR);
        let rows = TURNED.min(count - keys);
        turn(level, rows, &k[keys * d..], d, column, NR.min(d - column), square);
    }
}

/// Packs one panel of dS, `[keys][32]`, by pairs of keys.
fn bf16_pairs(level: Level, ds: &[bf16], keys: usize, out: &mut [bf16]) {
    use crate::device::cpu::GemmElement;
    bf16::pack_nn(level, ds, NR, keys, 0, NR, out);
}

/// dqᵀ += kᵀ·dSᵀ for 32 query rows: acc `[d][32]`, dS packed from the first of `keys` on, a multiple of 64.
fn add_dq(
    level: Level,
    (k_turned, width): (&[bf16], usize),
    (ds, keys): (&[bf16], Range<usize>),
    d: usize,
    acc: &mut [f32],
    out: &mut Tile,
) {
    let height = tile_height(level, d);
    for channel in (0..d).step_by(height) {
        let m = height.min(d - channel);
        let parts = (keys.start / TURNED..keys.end.div_ceil(TURNED)).map(|i| Part {
            a: &k_turned[(i * width + channel) * TURNED..],
            lda: TURNED,
            k: TURNED.min(keys.end - i * TURNED),
            panel: &ds[(i * TURNED - keys.start) * NR..],
        });
        product(level, m, NR, parts, out);
        add(level, &out[..m * NR], &mut acc[channel * NR..], NR);
    }
}

/// Adds rows of 32.
fn add(level: Level, out: &[f32], acc: &mut [f32], pitch: usize) {
    level.vectorize(
        #[inline(always)]
        || {
            for (acc, out) in acc.chunks_mut(pitch).zip(out.as_chunks::<NR>().0) {
                let Some(acc) = acc.first_chunk_mut::<NR>() else { continue };
                for l in 0..NR {
                    acc[l] += out[l];
                }
            }
        },
    );
}

/// dq of `rows` query rows from its turned sums, times the factor of the scores.
fn store_dq(level: Level, dims: &Dims, acc: &[f32], rows: usize, dq: &mut Rectangle<'_, bf16>) {
    let (d, group) = (dims.head_dim, dims.group());
    let mut rounded = [bf16::ZERO; TURNED * NR];
    let mut turned = [bf16::ZERO; TURNED * NR];
    for (panel, acc) in acc.chunks_exact(padded(d) * NR).take(rows.div_ceil(NR)).enumerate() {
        for first in (0..d).step_by(TURNED) {
            let channels = TURNED.min(d - first);
            let from = acc[first * NR..].as_chunks::<NR>().0;
            let to = rounded.as_chunks_mut::<NR>().0;
            for (from, to) in from.iter().zip(to).take(channels) {
                bf16::store(level, from, dims.scale, to);
            }
            turn(level, channels, &rounded, NR, 0, NR, &mut turned);
            for (i, row) in (panel * NR..rows.min((panel + 1) * NR)).enumerate() {
                let to = &mut dq.row(row / group)[row % group * d + first..][..channels];
                copy_channels(&turned[i * TURNED..][..channels], to);
            }
        }
    }
}
