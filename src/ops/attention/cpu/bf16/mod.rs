//! Attention of bf16 tensors with bf16 dot products: operands, P and dS are bf16, sums f32.
//!
//! All products go through the tile GEMM's register tile, whose right operands are packed panels. Query
//! rows are in the order of `Mask`: a token's heads of one group follow each other, so a panel of
//! keys is packed once for all of them.

mod backward;
mod forward;
mod sums;

use std::any::TypeId;
use std::ops::Range;

use half::bf16;

use super::mask::Mask;
use super::tile::with_scratch;
use super::{Dims, backward::Saved, forward::Queries};
use crate::device::cpu::simd::NR;
use crate::device::cpu::simd::product::tile_rows;
use crate::device::cpu::{Element, GemmElement, Level};

pub(super) use backward::{Gradients, backward, reserve as reserve_backward};
pub(super) use forward::{attend, block_q, reserve};
pub(super) use sums::reserved_bytes;

/// Whether this path takes these dimensions on this level.
pub(super) fn takes<E: Element>(level: Level, dims: &Dims) -> bool {
    let is_bf16 = TypeId::of::<E>() == TypeId::of::<bf16>();
    is_bf16 && level.has_bf16() && dims.head_dim.is_multiple_of(16)
}

/// Head channels in whole panels.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(NR)
}

/// Rows of a tile where `rows` are cut into tiles of about equal height.
fn tile_height(level: Level, rows: usize) -> usize {
    rows.div_ceil(rows.div_ceil(tile_rows(level)).max(1)).max(1)
}

/// The rows of one group's heads in a packed `[T, width]` matrix, heads of `head_dim` from `column`.
#[derive(Clone, Copy)]
struct Heads<'a> {
    data: &'a [bf16],
    width: usize,
    column: usize,
    group: usize,
    head_dim: usize,
}

impl Heads<'_> {
    /// Copies rows together; row r is head r % group of token `first + r / group`.
    fn copy(&self, first: usize, rows: Range<usize>, to: &mut [bf16]) {
        for (r, to) in rows.zip(to.chunks_exact_mut(self.head_dim)) {
            let token = (first + r / self.group) * self.width;
            let from = token + self.column + r % self.group * self.head_dim;
            copy_channels(&self.data[from..][..self.head_dim], to);
        }
    }
}

/// Copies whole sixteens: of a length that the compiler knows it makes no call for each.
fn copy_channels(from: &[bf16], to: &mut [bf16]) {
    for (to, from) in to.as_chunks_mut::<16>().0.iter_mut().zip(from.as_chunks::<16>().0) {
        *to = *from;
    }
}

/// `row * factor` rounded to bf16; both are one head.
fn store(level: Level, row: &[f32], factor: f32, to: &mut [bf16]) {
    let (whole, rest) = to.as_chunks_mut::<NR>();
    let (from, _) = row.as_chunks::<NR>();
    for (to, from) in whole.iter_mut().zip(from) {
        bf16::store(level, from, factor, to);
    }
    if !rest.is_empty() {
        let mut last = [bf16::ZERO; NR];
        // A head is padded to whole panels.
        bf16::store(level, &from[whole.len()], factor, &mut last);
        copy_channels(&last[..rest.len()], rest);
    }
}

/// Packs `rows` rows of one head as panels of 32 columns over its channels.
fn pack_rows(
    level: Level,
    data: &[bf16],
    ld: usize,
    rows: usize,
    head_dim: usize,
    to: &mut [bf16],
) {
    for (n, panel) in to.chunks_exact_mut(NR * head_dim).take(rows.div_ceil(NR)).enumerate() {
        bf16::pack_nt(level, data, ld, n * NR, NR.min(rows - n * NR), head_dim, panel);
    }
}

/// Packs a head's channels as panels of 32 columns over `rows` rows, one panel every `pitch` elements.
fn pack_channels(
    level: Level,
    (data, ld, column): (&[bf16], usize, usize),
    rows: usize,
    head_dim: usize,
    (to, pitch): (&mut [bf16], usize),
) {
    for (n, panel) in to.chunks_mut(pitch).take(head_dim.div_ceil(NR)).enumerate() {
        let columns = NR.min(head_dim - n * NR);
        bf16::pack_nn(level, data, ld, rows, column + n * NR, columns, panel);
    }
}
