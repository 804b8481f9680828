//! The product for few rows: the weights are read once and multiplied from registers, without panels.

use std::any::TypeId;

use half::bf16;

use super::{MR, Out, Target, side_by_side};
use crate::device::cpu::simd::dot::{FEW, Left, Sums, few_rows};
use crate::device::cpu::simd::{NR, rows_fit};
use crate::device::cpu::{Cpu, Element, GemmElement};

/// The left operand as [`few`] takes it, where that is the better way: few rows of bf16, and an
/// instruction set with the primitives. `k`: elements of every term's contraction.
pub fn as_few<'a, E: GemmElement>(
    cpu: &Cpu,
    m: usize,
    x: &'a [E],
    ld: usize,
    k: usize,
) -> Option<Left<'a>> {
    let fits = (1..=few_rows(cpu.level, k)).contains(&m) && rows_fit(x.len(), ld, m, k);
    if TypeId::of::<E>() != TypeId::of::<bf16>() || !fits {
        return None;
    }
    Some(Left { data: bytemuck::cast_slice(x), ld, m })
}

/// `out[m, n]` of up to [`FEW`] rows. `add(first column, columns, sums)` adds the terms of up to 32
/// columns to sums that begin with zeros; they are scaled and rounded as the tile GEMM's are.
pub fn few<O: Element>(
    cpu: &Cpu,
    m: usize,
    n: usize,
    mut out: Out<'_, O>,
    add: impl Fn(usize, usize, &mut Sums) + Sync,
) {
    assert!(m <= FEW, "too many rows");
    let target = Target::new(&mut out, m, n);
    side_by_side(cpu, n.div_ceil(NR), |panel| {
        let columns = panel * NR..n.min((panel + 1) * NR);
        let mut tile = [0.0; MR * NR];
        if let Some(sums) = tile.as_chunks_mut::<NR>().0.first_chunk_mut() {
            add(columns.start, columns.len(), sums);
        }
        // SAFETY: rows below m, columns below n; each task has its own columns.
        unsafe { target.store(cpu.level, &tile, 0..m, &columns) };
    });
}
