//! Backward in two passes that recompute P: dq by blocks of queries, dk and dv by blocks of keys.

use super::bf16;
use super::forward::fold;
use super::mask::Mask;
use super::product::{add_columns, add_rows, scores};
use super::tile::{KEYS, LANES, Rows, lanes, live, pad, store, with_scratch};
use super::{Dims, OP, check, check_documents};
use crate::device::cpu::documents::{Block, Cut, Side};
use crate::device::cpu::simd::math::exp;
use crate::device::cpu::{Cpu, Element, Level};
use crate::ops::ShapeError;

/// Overwrites dq, dk, dv, and delta, which is scratch; o and lse are what `forward` wrote.
#[allow(clippy::too_many_arguments)]
pub fn backward<E: Element>(
    cpu: &Cpu,
    dims: &Dims,
    cu_seqlens: &[u32],
    q: &[E],
    k: &[E],
    v: &[E],
    o: &[E],
    lse: &[f32],
    d_o: &[E],
    delta: &mut [f32],
    dq: &mut [E],
    dk: &mut [E],
    dv: &mut [E],
) -> Result<(), ShapeError> {
    dims.check()?;
    let (_, tokens) = check_documents(cu_seqlens)?;
    let (qw, kw) = (dims.q_width(), dims.kv_width());
    check(OP, "len of q", q.len(), tokens * qw)?;
    check(OP, "len of k", k.len(), tokens * kw)?;
    check(OP, "len of v", v.len(), tokens * kw)?;
    check(OP, "len of o", o.len(), tokens * qw)?;
    check(OP, "len of lse", lse.len(), tokens * dims.heads)?;
    check(OP, "len of d_o", d_o.len(), tokens * qw)?;
    check(OP, "len of delta", delta.len(), tokens * dims.heads)?;
    check(OP, "len of dq", dq.len(), tokens * qw)?;
    check(OP, "len of dk", dk.len(), tokens * kw)?;
    check(OP, "len of dv", dv.len(), tokens * kw)?;
    let level = cpu.level;
    if bf16::takes::<E>(level, dims) {
        let [q, k, v, o, d_o] = [q, k, v, o, d_o].map(bytemuck::cast_slice);
        let [dq, dk, dv] = [dq, dk, dv].map(bytemuck::cast_slice_mut);
        let saved = Saved { dims, q, k, v, o, lse, d_o };
        bf16::backward(cpu, &saved, cu_seqlens, bf16::Gradients { delta, dq, dk, dv });
        return Ok(());
    }
    let saved = Saved { dims, q, k, v, o, lse, d_o };
    let cut = Cut::new(cu_seqlens, dims.block_q(), 1);
    let out = cut.rows_mut(Side::Later, dq, qw);
    let stats = cut.rows_mut(Side::Later, delta, dims.heads);
    cpu.blocks((cut.pairs(), out, stats), |((block, _), dq, delta)| {
        let (rows, delta) = (block.begin * qw..block.end * qw, delta.into_slice());
        row_dots(level, dims.head_dim, &d_o[rows.clone()], &o[rows], delta);
        saved.queries(level, block, delta, dq.into_slice());
    });
    let delta = &*delta;
    let cut = Cut::new(cu_seqlens, KEYS, 1);
    let (dk, dv) = (cut.rows_mut(Side::Later, dk, kw), cut.rows_mut(Side::Later, dv, kw));
    cpu.blocks((cut.pairs(), dk, dv), |((block, _), dk, dv)| {
        saved.keys(level, block, delta, dk.into_slice(), dv.into_slice());
    });
    Ok(())
}

/// What the passes read.
pub(super) struct Saved<'a, E> {
    pub dims: &'a Dims,
    pub q: &'a [E],
    pub k: &'a [E],
    pub v: &'a [E],
    pub o: &'a [E],
    pub lse: &'a [f32],
    pub d_o: &'a [E],
}

impl<E: Element> Saved<'_, E> {
    /// dq of one block of queries; `delta` is that block's.
    fn queries(&self, level: Level, block: Block, delta: &[f32], dq: &mut [E]) {
        let Dims { heads, kv_heads, head_dim, scale, .. } = *self.dims;
        let (group, pitch) = (self.dims.group(), pad(head_dim));
        let tokens = block.begin..block.end;
        let rows = tokens.len() * group;
        let (tile, panel) = (rows * KEYS, rows * pitch);
        let (turned, flat) = (head_dim * KEYS, KEYS * pitch);
        let lens = [panel, panel, panel, turned, turned, flat, tile, tile, rows, rows];
        with_scratch(lens, |[q, d_o, acc, k_t, v_t, k, p, ds, lse_rows, delta_rows]| {
            for kv_head in 0..kv_heads {
                self.query_rows(self.q, tokens.clone(), kv_head).load(level, scale, q);
                self.query_rows(self.d_o, tokens.clone(), kv_head).load(level, 1.0, d_o);
                let lse = &self.lse[block.begin * heads..block.end * heads];
                self.load_stats(lse, kv_head, lse_rows);
                self.load_stats(delta, kv_head, delta_rows);
                acc.fill(0.0);
                let skipped = self.dims.first_key(block.begin - block.start) / KEYS * KEYS;
                for first in (block.start + skipped..block.end).step_by(KEYS) {
                    let keys = first..block.end.min(first + KEYS);
                    let mask = Mask::new(self.dims, block.begin, first, keys.len());
                    let source = self.key_rows(self.k, keys.clone(), kv_head);
                    source.load_transposed(level, k_t);
                    source.load(level, 1.0, k);
                    self.key_rows(self.v, keys, kv_head).load_transposed(level, v_t);
                    scores(level, mask, rows, (q, pitch), k_t, p);
                    scores(level, mask, rows, (d_o, pitch), v_t, ds);
                    score_gradients(level, mask, p, ds, lse_rows, delta_rows);
                    add_rows(level, mask, rows, ds, (k, pitch), acc);
                }
                let place = (self.dims.q_width(), kv_head * group * head_dim);
                store(level, acc, scale, dq, place, (group, head_dim));
            }
        });
    }

    /// dk and dv of one block of keys.
    fn keys(&self, level: Level, block: Block, delta: &[f32], dk: &mut [E], dv: &mut [E]) {
        let Dims { heads, kv_heads, head_dim, scale, .. } = *self.dims;
        let (group, pitch) = (self.dims.group(), pad(head_dim));
        let keys = block.begin..block.end;
        let size = self.dims.block_q();
        let rows = size * group;
        let (tile, panel) = (rows * KEYS, rows * pitch);
        let (turned, flat) = (head_dim * KEYS, keys.len() * pitch);
        let lens = [panel, panel, turned, turned, flat, flat, tile, tile, rows, rows];
        with_scratch(lens, |[q, d_o, k_t, v_t, dk_acc, dv_acc, p, ds, lse_rows, delta_rows]| {
            for kv_head in 0..kv_heads {
                self.key_rows(self.k, keys.clone(), kv_head).load_transposed(level, k_t);
                self.key_rows(self.v, keys.clone(), kv_head).load_transposed(level, v_t);
                dk_acc.fill(0.0);
                dv_acc.fill(0.0);
                // The first block of queries that has a query at or after the first key.
                let skipped = (block.begin - block.start) / size * size;
                // The last query that sees a key is the window's length from the last key.
                let end = block.stop.min((block.end - 1).saturating_add(self.dims.reach()));
                for first in (block.start + skipped..end).step_by(size) {
                    let tokens = first..block.stop.min(first + size);
                    let rows = tokens.len() * group;
                    let mask = Mask::new(self.dims, first, block.begin, keys.len());
                    self.query_rows(self.q, tokens.clone(), kv_head).load(level, scale, q);
                    self.query_rows(self.d_o, tokens.clone(), kv_head).load(level, 1.0, d_o);
                    let stats = tokens.start * heads..tokens.end * heads;
                    let (lse_rows, delta_rows) = (&mut lse_rows[..rows], &mut delta_rows[..rows]);
                    self.load_stats(&self.lse[stats.clone()], kv_head, lse_rows);
                    self.load_stats(&delta[stats], kv_head, delta_rows);
                    scores(level, mask, rows, (q, pitch), k_t, p);
                    scores(level, mask, rows, (d_o, pitch), v_t, ds);
                    score_gradients(level, mask, p, ds, lse_rows, delta_rows);
                    add_columns(level, mask, rows, p, (d_o, pitch), dv_acc);
                    // q was loaded times scale, so dk needs no factor of its own.
                    add_columns(level, mask, rows, ds, (q, pitch), dk_acc);
                }
                let place = (self.dims.kv_width(), kv_head * head_dim);
                store(level, dk_acc, 1.0, dk, place, (1, head_dim));
                store(level, dv_acc, 1.0, dv, place, (1, head_dim));
            }
        });
    }

    fn query_rows<'a>(
        &self,
        data: &'a [E],
        rows: std::ops::Range<usize>,
        kv_head: usize,
    ) -> Rows<'a, E> {
        let (group, head_dim) = (self.dims.group(), self.dims.head_dim);
        let column = kv_head * group * head_dim;
        Rows { data, width: self.dims.q_width(), rows, column, group, head_dim }
    }

    fn key_rows<'a>(
        &self,
        data: &'a [E],
        rows: std::ops::Range<usize>,
        kv_head: usize,
    ) -> Rows<'a, E> {
        let head_dim = self.dims.head_dim;
        let column = kv_head * head_dim;
        Rows { data, width: self.dims.kv_width(), rows, column, group: 1, head_dim }
    }

    /// One group's statistics, in the order of query rows.
    fn load_stats(&self, src: &[f32], kv_head: usize, dst: &mut [f32]) {
        let group = self.dims.group();
        let tokens = src.chunks_exact(self.dims.heads);
        for (out, token) in dst.chunks_exact_mut(group).zip(tokens) {
            out.copy_from_slice(&token[kv_head * group..][..group]);
        }
    }
}

/// p: scores become P = exp(s - lse). ds: dP becomes P (dP - delta). Both 0 where masked.
fn score_gradients(
    level: Level,
    mask: Mask,
    p: &mut [f32],
    ds: &mut [f32],
    lse: &[f32],
    delta: &[f32],
) {
    match mask.has_edge(lse.len()) {
        true => score_gradients_rows::<true>(level, mask, p, ds, lse, delta),
        false => score_gradients_rows::<false>(level, mask, p, ds, lse, delta),
    }
}

#[inline(never)]
fn score_gradients_rows<const EDGE: bool>(
    level: Level,
    mask: Mask,
    p: &mut [f32],
    ds: &mut [f32],
    lse: &[f32],
    delta: &[f32],
) {
    level.vectorize(
        #[inline(always)]
        || {
            let stats = lse.iter().zip(delta);
            let rows = p.chunks_exact_mut(KEYS).zip(ds.chunks_exact_mut(KEYS)).zip(stats);
            for (r, ((p, ds), (&lse, &delta))) in rows.enumerate() {
                let (p, seen) = live(p, mask.seen(r));
                let (ds, _) = live(ds, mask.seen(r));
                let chunks = p.chunks_exact_mut(LANES).zip(ds.chunks_exact_mut(LANES));
                for (n, (p, ds)) in chunks.enumerate() {
                    let live = lanes::<EDGE>(&seen, n);
                    for l in 0..LANES {
                        let prob = exp(p[l] - lse);
                        let grad = prob * (ds[l] - delta);
                        p[l] = if live(l) { prob } else { 0.0 };
                        ds[l] = if live(l) { grad } else { 0.0 };
                    }
                }
            }
        },
    );
}

/// out[r] = a[r]·b[r] over rows of `width` elements.
pub(super) fn row_dots<E: Element>(level: Level, width: usize, a: &[E], b: &[E], out: &mut [f32]) {
    level.vectorize(
        #[inline(always)]
        || {
            let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
            for (out, (a, b)) in out.iter_mut().zip(rows) {
                let (a, a_tail) = a.split_at(width / LANES * LANES);
                let (b, b_tail) = b.split_at(width / LANES * LANES);
                let mut lanes = [0f32; LANES];
                for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
                    for l in 0..LANES {
                        lanes[l] += a[l].to_f32() * b[l].to_f32();
                    }
                }
                for (l, (a, b)) in a_tail.iter().zip(b_tail).enumerate() {
                    lanes[l] += a.to_f32() * b.to_f32();
                }
                *out = fold(lanes, |a, b| a + b);
            }
        },
    );
}
