//! Dropout on the CPU.

use super::Mask;
use crate::device::cpu::simd::Kernel;
use crate::device::cpu::simd::convert::BLOCK;
use crate::device::cpu::{Cpu, Element, Level, chunks, chunks_mut, numbers};

/// Elements in one task, a multiple of 8.
const TASK: usize = 1 << 14;

pub fn forward<E: Element>(cpu: &Cpu, mask: Mask, x: &[E], out: &mut [E]) {
    run::<E, false>(cpu, mask, x, out);
}

pub fn backward<E: Element>(cpu: &Cpu, mask: Mask, t: &[E], dx: &mut [E]) {
    run::<E, true>(cpu, mask, t, dx);
}

fn run<E: Element, const ADD: bool>(cpu: &Cpu, mask: Mask, x: &[E], out: &mut [E]) {
    let level = cpu.level;
    let tasks = numbers(x.len().div_ceil(TASK));
    cpu.blocks((tasks, chunks(x, TASK), chunks_mut(out, TASK)), |(task, x, out)| {
        let first = (task * (TASK / 8)) as u32;
        level.run(Part::<E, ADD> { level, mask, first, x, out });
    });
}

struct Part<'a, E, const ADD: bool> {
    level: Level,
    mask: Mask,
    /// Counter of the first eight.
    first: u32,
    x: &'a [E],
    out: &'a mut [E],
}

impl<E: Element, const ADD: bool> Kernel for Part<'_, E, ADD> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut block = [0f32; BLOCK];
        let parts = self.x.chunks(BLOCK).zip(self.out.chunks_mut(BLOCK)).enumerate();
        for (i, (x, out)) in parts {
            let block = &mut block[..x.len()];
            let eights = block.chunks_mut(8).zip(x.chunks(8)).zip(out.chunks(8));
            for (j, ((to, x), out)) in eights.enumerate() {
                let factors = self.mask.factors(self.first + (i * (BLOCK / 8) + j) as u32);
                for (((to, x), out), factor) in to.iter_mut().zip(x).zip(out).zip(factors) {
                    *to = x.to_f32() * factor;
                    if ADD {
                        *to += out.to_f32();
                    }
                }
            }
            E::round(self.level, block, out);
        }
    }
}
