//! RoPE on the CPU: each block of tokens turns its rows of q and of k.

use rayon::prelude::*;

use super::Tables;
use crate::device::cpu::simd::Kernel;
use crate::device::cpu::{Cpu, Element};

/// Tokens in one block of work.
const ROWS: usize = 16;

pub fn rotate<E: Element, const BACK: bool>(
    cpu: &Cpu,
    tables: &Tables,
    position_ids: &[u32],
    heads: usize,
    kv_heads: usize,
    q: &mut [E],
    k: &mut [E],
) {
    let (q_cols, k_cols) = (heads * tables.head_dim, kv_heads * tables.head_dim);
    cpu.install(|| {
        let blocks = position_ids
            .par_chunks(ROWS)
            .zip(q.par_chunks_mut(ROWS * q_cols))
            .zip(k.par_chunks_mut(ROWS * k_cols));
        blocks.for_each(|((position_ids, q), k)| {
            for (rows, cols) in [(q, q_cols), (k, k_cols)] {
                cpu.level.run(Rotate::<E, BACK> { tables, position_ids, cols, rows });
            }
        });
    });
}

struct Rotate<'a, E, const BACK: bool> {
    tables: &'a Tables,
    position_ids: &'a [u32],
    cols: usize,
    rows: &'a mut [E],
}

impl<E: Element, const BACK: bool> Kernel for Rotate<'_, E, BACK> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let head_dim = self.tables.head_dim;
        let half = head_dim / 2;
        for (row, &position) in self.rows.chunks_exact_mut(self.cols).zip(self.position_ids) {
            let cos = &self.tables.cos[position as usize * half..][..half];
            let sin = &self.tables.sin[position as usize * half..][..half];
            for head in row.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                for (((low, high), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                    let sin = if BACK { -sin } else { sin };
                    let (a, b) = (low.to_f32(), high.to_f32());
                    *low = E::from_f32(a * cos - b * sin);
                    *high = E::from_f32(b * cos + a * sin);
                }
            }
        }
    }
}
