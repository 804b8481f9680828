//! Forward: online softmax over key tiles, one task per block of queries.

use std::ops::Range;

use super::bf16;
use super::mask::Mask;
use super::product::{add_rows, scores};
use super::tile::{KEYS, LANES, Rows, lanes, live, pad, store, with_scratch};
use super::{Dims, OP, check, check_documents};
use crate::device::cpu::documents::{Block, Cut, Side};
use crate::device::cpu::simd::math::exp;
use crate::device::cpu::{Cpu, Element, Level};
use crate::ops::ShapeError;

/// Overwrites o and lse; equation and shapes on the module's page.
///
/// A NaN or infinity in a document's q, k or v stays inside that document.
#[allow(clippy::too_many_arguments)]
pub fn forward<E: Element>(
    cpu: &Cpu,
    dims: &Dims,
    cu_seqlens: &[u32],
    q: &[E],
    k: &[E],
    v: &[E],
    o: &mut [E],
    lse: &mut [f32],
) -> Result<(), ShapeError> {
    dims.check()?;
    let (_, tokens) = check_documents(cu_seqlens)?;
    check(OP, "len of q", q.len(), tokens * dims.q_width())?;
    check(OP, "len of k", k.len(), tokens * dims.kv_width())?;
    check(OP, "len of v", v.len(), tokens * dims.kv_width())?;
    check(OP, "len of o", o.len(), tokens * dims.q_width())?;
    check(OP, "len of lse", lse.len(), tokens * dims.heads)?;
    let (qw, kw) = (dims.q_width(), dims.kv_width());
    attend_blocks(cpu, dims, cu_seqlens, (o, Some(lse)), |block| Queries {
        q: &q[block.begin * qw..block.end * qw],
        position: block.begin - block.start,
        k: &k[block.start * kw..block.stop * kw],
        v: &v[block.start * kw..block.stop * kw],
    });
    Ok(())
}

/// Fills o (and lse) for all blocks of queries, on the path that takes them.
pub(super) fn attend_blocks<'a, E: Element>(
    cpu: &Cpu,
    dims: &Dims,
    cu_seqlens: &[u32],
    (o, lse): (&mut [E], Option<&mut [f32]>),
    queries: impl Fn(&Block) -> Queries<'a, E> + Sync,
) {
    let (level, with_lse) = (cpu.level, lse.is_some());
    let (lse, lse_width) = lse.map_or((&mut [][..], 0), |lse| (lse, dims.heads));
    if bf16::takes::<E>(level, dims) {
        let o = bytemuck::cast_slice_mut::<E, half::bf16>(o);
        let cut = Cut::new(cu_seqlens, bf16::block_q(dims), dims.kv_heads);
        let o = cut.rows_mut(Side::Later, o, dims.q_width());
        let lse = cut.rows_mut(Side::Later, lse, lse_width);
        cpu.blocks((cut.pairs(), o, lse), |((block, _), mut o, mut lse)| {
            let Queries { q, position, k, v } = queries(&block);
            let [q, k, v] = [q, k, v].map(bytemuck::cast_slice);
            let queries = Queries { q, position, k, v };
            bf16::attend(level, dims, block.column, &queries, &mut o, &mut lse);
        });
    } else {
        let cut = Cut::new(cu_seqlens, dims.block_q(), 1);
        let o = cut.rows_mut(Side::Later, o, dims.q_width());
        let lse = cut.rows_mut(Side::Later, lse, lse_width);
        cpu.blocks((cut.pairs(), o, lse), |((block, _), o, lse)| {
            let lse = with_lse.then(|| lse.into_slice());
            queries(&block).attend(level, dims, o.into_slice(), lse);
        });
    }
}

/// A block of one document's queries and the keys and values from the document's start.
pub(super) struct Queries<'a, E> {
    pub q: &'a [E],
    /// Position of the first query in the document.
    pub position: usize,
    pub k: &'a [E],
    pub v: &'a [E],
}

impl<E: Element> Queries<'_, E> {
    /// Fills o (and lse) for these queries, one key head after another.
    pub fn attend(&self, level: Level, dims: &Dims, o: &mut [E], mut lse: Option<&mut [f32]>) {
        let Dims { heads, kv_heads, head_dim, scale, .. } = *dims;
        let (group, pitch) = (dims.group(), pad(head_dim));
        let (qw, kw) = (dims.q_width(), dims.kv_width());
        let tokens = self.q.len() / qw;
        let rows = tokens * group;
        let keys = self.position + tokens;
        let lens =
            [rows * pitch, head_dim * KEYS, KEYS * pitch, rows * KEYS, rows * pitch, rows, rows];
        with_scratch(lens, |[q, k_t, v, s, acc, max, sum]| {
            for kv_head in 0..kv_heads {
                let column = kv_head * group * head_dim;
                let source =
                    Rows { data: self.q, width: qw, rows: 0..tokens, column, group, head_dim };
                source.load(level, scale, q);
                acc.fill(0.0);
                max.fill(f32::NEG_INFINITY);
                sum.fill(0.0);
                // Tiles are counted from the document's start, wherever the window begins.
                let skipped = dims.first_key(self.position) / KEYS * KEYS;
                for first in (skipped..keys).step_by(KEYS) {
                    let tile = first..keys.min(first + KEYS);
                    let mask = Mask::new(dims, self.position, first, tile.len());
                    let source = |data| Rows {
                        data,
                        width: kw,
                        rows: tile.clone(),
                        column: kv_head * head_dim,
                        group: 1,
                        head_dim,
                    };
                    source(self.k).load_transposed(level, k_t);
                    source(self.v).load(level, 1.0, v);
                    scores(level, mask, rows, (q, pitch), k_t, s);
                    softmax(level, mask, s, max, sum, acc);
                    add_rows(level, mask, rows, s, (v, pitch), acc);
                }
                normalise(level, acc, sum);
                store(level, acc, 1.0, o, (qw, column), (group, head_dim));
                let Some(lse) = lse.as_deref_mut() else { continue };
                for (t, out) in lse.chunks_exact_mut(heads).enumerate() {
                    for g in 0..group {
                        let row = t * group + g;
                        out[kv_head * group + g] = max[row] + sum[row].ln();
                    }
                }
            }
        });
    }
}

/// Scores become exp(s - max), 0 where masked; what was summed under an older maximum is scaled.
///
/// A row that has seen no key yet keeps the maximum of -∞, and sums of 0.
fn softmax(
    level: Level,
    mask: Mask,
    s: &mut [f32],
    max: &mut [f32],
    sum: &mut [f32],
    acc: &mut [f32],
) {
    match mask.has_edge(max.len()) {
        true => softmax_rows::<true>(level, mask, s, max, sum, acc),
        false => softmax_rows::<false>(level, mask, s, max, sum, acc),
    }
}

#[inline(never)]
fn softmax_rows<const EDGE: bool>(
    level: Level,
    mask: Mask,
    s: &mut [f32],
    max: &mut [f32],
    sum: &mut [f32],
    acc: &mut [f32],
) {
    let pitch = acc.len() / max.len();
    level.vectorize(
        #[inline(always)]
        || {
            let stats = max.iter_mut().zip(sum.iter_mut());
            let rows = s.chunks_exact_mut(KEYS).zip(acc.chunks_exact_mut(pitch)).zip(stats);
            for (r, ((s, acc), (max, sum))) in rows.enumerate() {
                let (s, seen) = live(s, mask.seen(r));
                let new = row_max::<EDGE>(s, &seen, *max);
                let added = exp_row::<EDGE>(s, &seen, new);
                if new != *max {
                    let factor = exp(*max - new);
                    *sum *= factor;
                    acc.iter_mut().for_each(|x| *x *= factor);
                    *max = new;
                }
                *sum += added;
            }
        },
    );
}

/// The largest of `start` and the elements that are `seen`; a NaN among them is passed over (it comes
/// back through the exponentials).
#[inline(always)]
fn row_max<const EDGE: bool>(row: &[f32], seen: &Range<usize>, start: f32) -> f32 {
    let mut largest = [start; LANES];
    for (n, chunk) in row.chunks_exact(LANES).enumerate() {
        let live = lanes::<EDGE>(seen, n);
        for l in 0..LANES {
            let x = if live(l) { chunk[l] } else { start };
            largest[l] = if x > largest[l] { x } else { largest[l] };
        }
    }
    fold(largest, |a, b| if b > a { b } else { a })
}

/// Replaces the elements that are `seen` by exp(x - max), the others by 0, and sums them.
#[inline(always)]
fn exp_row<const EDGE: bool>(row: &mut [f32], seen: &Range<usize>, max: f32) -> f32 {
    let mut sums = [0f32; LANES];
    for (n, chunk) in row.chunks_exact_mut(LANES).enumerate() {
        let live = lanes::<EDGE>(seen, n);
        for l in 0..LANES {
            let p = exp(chunk[l] - max);
            chunk[l] = if live(l) { p } else { 0.0 };
            sums[l] += chunk[l];
        }
    }
    fold(sums, |a, b| a + b)
}

/// Reduces the lanes by halves.
#[inline(always)]
pub(super) fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = f(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

fn normalise(level: Level, acc: &mut [f32], sum: &[f32]) {
    let pitch = acc.len() / sum.len();
    level.vectorize(
        #[inline(always)]
        || {
            for (acc, sum) in acc.chunks_exact_mut(pitch).zip(sum) {
                let factor = 1.0 / sum;
                acc.iter_mut().for_each(|x| *x *= factor);
            }
        },
    );
}
