//! RMSNorm on the CPU: a row's sum in lanes, then one pass that writes it.

use half::bf16;

use crate::device::cpu::simd::convert::BLOCK;
use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, Element, Level, chunks, chunks_mut};

/// Rows in one block of work.
const ROWS: usize = 16;

pub fn forward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    eps: f32,
    x: &[E],
    w: &[bf16],
    y: &mut [E],
    rstd: &mut [f32],
) {
    let (level, block) = (cpu.level, ROWS * hidden);
    cpu.blocks((chunks(x, block), chunks_mut(y, block), chunks_mut(rstd, ROWS)), |(x, y, rstd)| {
        level.run(Forward { level, hidden, eps, x, w, y, rstd });
    });
}

#[allow(clippy::too_many_arguments)]
pub fn add_forward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    eps: f32,
    x: &[E],
    residual: &[E],
    sum: &mut [E],
    w: &[bf16],
    y: &mut [E],
    rstd: &mut [f32],
) {
    let (level, block) = (cpu.level, ROWS * hidden);
    let blocks = (
        chunks(x, block),
        chunks(residual, block),
        chunks_mut(sum, block),
        chunks_mut(y, block),
        chunks_mut(rstd, ROWS),
    );
    cpu.blocks(blocks, |(x, residual, sum, y, rstd)| {
        level.run(Add { level, x, residual, sum: &mut *sum });
        level.run(Forward { level, hidden, eps, x: sum, w, y, rstd });
    });
}

pub fn add<E: Element>(cpu: &Cpu, hidden: usize, x: &[E], residual: &[E], sum: &mut [E]) {
    let (level, block) = (cpu.level, ROWS * hidden);
    cpu.blocks((chunks(x, block), chunks(residual, block), chunks_mut(sum, block)), |block| {
        let (x, residual, sum) = block;
        level.run(Add { level, x, residual, sum });
    });
}

pub fn backward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    x: &[E],
    w: &[bf16],
    rstd: &[f32],
    dy: &[E],
    dx: &mut [E],
) {
    let (level, block) = (cpu.level, ROWS * hidden);
    let blocks = (chunks(x, block), chunks(dy, block), chunks_mut(dx, block), chunks(rstd, ROWS));
    cpu.blocks(blocks, |(x, dy, dx, rstd)| {
        level.run(Backward { level, hidden, x, w, rstd, dy, dx });
    });
}

struct Add<'a, E> {
    level: Level,
    x: &'a [E],
    residual: &'a [E],
    sum: &'a mut [E],
}

impl<E: Element> Kernel for Add<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut block = [0f32; BLOCK];
        let parts = self.x.chunks(BLOCK).zip(self.residual.chunks(BLOCK));
        for ((x, residual), sum) in parts.zip(self.sum.chunks_mut(BLOCK)) {
            let block = &mut block[..sum.len()];
            for ((out, x), residual) in block.iter_mut().zip(x).zip(residual) {
                *out = residual.to_f32() + x.to_f32();
            }
            E::round(self.level, block, sum);
        }
    }
}

struct Forward<'a, E> {
    level: Level,
    hidden: usize,
    eps: f32,
    x: &'a [E],
    w: &'a [bf16],
    y: &'a mut [E],
    rstd: &'a mut [f32],
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut block = [0f32; BLOCK];
        let rows = self.x.chunks_exact(self.hidden).zip(self.y.chunks_exact_mut(self.hidden));
        for ((x, y), out) in rows.zip(self.rstd) {
            let squares = math::sum(x, |x| x.to_f32() * x.to_f32());
            let rstd = 1.0 / (squares / self.hidden as f32 + self.eps).sqrt();
            *out = rstd;
            let parts = x.chunks(BLOCK).zip(self.w.chunks(BLOCK));
            for ((x, w), y) in parts.zip(y.chunks_mut(BLOCK)) {
                let block = &mut block[..y.len()];
                for ((out, x), w) in block.iter_mut().zip(x).zip(w) {
                    *out = E::rounded(x.to_f32() * rstd) * Element::to_f32(*w);
                }
                E::round(self.level, block, y);
            }
        }
    }
}

struct Backward<'a, E> {
    level: Level,
    hidden: usize,
    x: &'a [E],
    w: &'a [bf16],
    rstd: &'a [f32],
    dy: &'a [E],
    dx: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut block = [0f32; BLOCK];
        let x = self.x.chunks_exact(self.hidden);
        let dy = self.dy.chunks_exact(self.hidden);
        let dx = self.dx.chunks_exact_mut(self.hidden);
        for (((x, dy), dx), &rstd) in x.zip(dy).zip(dx).zip(self.rstd) {
            let sum = math::sum3(x, dy, self.w, |x, dy, w| {
                x.to_f32() * (dy.to_f32() * Element::to_f32(w))
            });
            // mean(w·dy·x̂)·x̂ = x · (Σ w·dy·x / hidden · rstd²)
            let c = sum / self.hidden as f32 * rstd * rstd;
            let parts = x.chunks(BLOCK).zip(dy.chunks(BLOCK)).zip(self.w.chunks(BLOCK));
            for (((x, dy), w), dx) in parts.zip(dx.chunks_mut(BLOCK)) {
                let block = &mut block[..dx.len()];
                for ((((out, dx), x), dy), w) in block.iter_mut().zip(&*dx).zip(x).zip(dy).zip(w) {
                    let wdy = dy.to_f32() * Element::to_f32(*w);
                    *out = dx.to_f32() + rstd * (wdy - x.to_f32() * c);
                }
                E::round(self.level, block, dx);
            }
        }
    }
}
