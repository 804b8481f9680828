//! RoPE on the CPU: each block of tokens turns its rows of q and of k.

use super::Tables;
use crate::device::cpu::simd::Kernel;
use crate::device::cpu::{Cpu, Element, Level, chunks, chunks_mut};

/// Tokens in one task.
const ROWS: usize = 16;
/// Elements of half a head that are turned at once.
const BLOCK: usize = 64;

pub fn rotate<E: Element, const BACK: bool>(
    cpu: &Cpu,
    tables: &Tables,
    position_ids: &[u32],
    heads: usize,
    kv_heads: usize,
    q: &mut [E],
    k: &mut [E],
) {
    let level = cpu.level;
    let (q_cols, k_cols) = (heads * tables.head_dim, kv_heads * tables.head_dim);
    let blocks =
        (chunks(position_ids, ROWS), chunks_mut(q, ROWS * q_cols), chunks_mut(k, ROWS * k_cols));
    cpu.blocks(blocks, |(position_ids, q, k)| {
        for (rows, cols) in [(q, q_cols), (k, k_cols)] {
            level.run(Rotate::<E, BACK> { level, tables, position_ids, cols, rows });
        }
    });
}

struct Rotate<'a, E, const BACK: bool> {
    level: Level,
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
        let mut turned = [[0f32; BLOCK]; 2];
        for (row, &position) in self.rows.chunks_exact_mut(self.cols).zip(self.position_ids) {
            let cos = &self.tables.cos[position as usize * half..][..half];
            let sin = &self.tables.sin[position as usize * half..][..half];
            for head in row.chunks_exact_mut(head_dim) {
                let (low, high) = head.split_at_mut(half);
                let angles = cos.chunks(BLOCK).zip(sin.chunks(BLOCK));
                let halves = low.chunks_mut(BLOCK).zip(high.chunks_mut(BLOCK));
                for ((low, high), (cos, sin)) in halves.zip(angles) {
                    let [new_low, new_high] = &mut turned;
                    let (new_low, new_high) =
                        (&mut new_low[..low.len()], &mut new_high[..low.len()]);
                    let new = new_low.iter_mut().zip(&mut *new_high);
                    let old = low.iter().zip(&*high).zip(cos).zip(sin);
                    for ((new_low, new_high), (((low, high), cos), sin)) in new.zip(old) {
                        let sin = if BACK { -sin } else { *sin };
                        let (a, b) = (low.to_f32(), high.to_f32());
                        *new_low = a * cos - b * sin;
                        *new_high = b * cos + a * sin;
                    }
                    E::round(self.level, new_low, low);
                    E::round(self.level, new_high, high);
                }
            }
        }
    }
}
