//! RMSNorm on the CPU: a row's sum in lanes, then one pass that writes it.

use half::bf16;
use rayon::prelude::*;

use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, Element};

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
    let block = ROWS * hidden;
    cpu.install(|| {
        let blocks =
            x.par_chunks(block).zip(y.par_chunks_mut(block)).zip(rstd.par_chunks_mut(ROWS));
        blocks.for_each(|((x, y), rstd)| {
            cpu.level.run(Forward { hidden, eps, x, w, y, rstd });
        });
    });
}

#[allow(clippy::too_many_arguments)]
pub fn add_forward<E: Element>(
    cpu: &Cpu,
    hidden: usize,
    eps: f32,
    x: &[E],
    residual: &mut [E],
    w: &[bf16],
    y: &mut [E],
    rstd: &mut [f32],
) {
    let block = ROWS * hidden;
    cpu.install(|| {
        let blocks = x
            .par_chunks(block)
            .zip(residual.par_chunks_mut(block))
            .zip(y.par_chunks_mut(block))
            .zip(rstd.par_chunks_mut(ROWS));
        blocks.for_each(|(((x, residual), y), rstd)| {
            cpu.level.run(Add { x, residual: &mut *residual });
            cpu.level.run(Forward { hidden, eps, x: residual, w, y, rstd });
        });
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
    let block = ROWS * hidden;
    cpu.install(|| {
        let blocks = x
            .par_chunks(block)
            .zip(dy.par_chunks(block))
            .zip(dx.par_chunks_mut(block))
            .zip(rstd.par_chunks(ROWS));
        blocks.for_each(|(((x, dy), dx), rstd)| {
            cpu.level.run(Backward { hidden, x, w, rstd, dy, dx });
        });
    });
}

struct Add<'a, E> {
    x: &'a [E],
    residual: &'a mut [E],
}

impl<E: Element> Kernel for Add<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (residual, x) in self.residual.iter_mut().zip(self.x) {
            *residual = E::from_f32(residual.to_f32() + x.to_f32());
        }
    }
}

struct Forward<'a, E> {
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
        let rows = self.x.chunks_exact(self.hidden).zip(self.y.chunks_exact_mut(self.hidden));
        for ((x, y), out) in rows.zip(self.rstd) {
            let squares = math::sum(x, |x| x.to_f32() * x.to_f32());
            let rstd = 1.0 / (squares / self.hidden as f32 + self.eps).sqrt();
            *out = rstd;
            for ((y, x), w) in y.iter_mut().zip(x).zip(self.w) {
                let normed = E::from_f32(x.to_f32() * rstd);
                *y = E::from_f32(normed.to_f32() * Element::to_f32(*w));
            }
        }
    }
}

struct Backward<'a, E> {
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
        let x = self.x.chunks_exact(self.hidden);
        let dy = self.dy.chunks_exact(self.hidden);
        let dx = self.dx.chunks_exact_mut(self.hidden);
        for (((x, dy), dx), &rstd) in x.zip(dy).zip(dx).zip(self.rstd) {
            let sum = math::sum3(x, dy, self.w, |x, dy, w| {
                x.to_f32() * (dy.to_f32() * Element::to_f32(w))
            });
            // mean(w·dy·x̂)·x̂ = x · (Σ w·dy·x / hidden · rstd²)
            let c = sum / self.hidden as f32 * rstd * rstd;
            for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(self.w) {
                let wdy = dy.to_f32() * Element::to_f32(*w);
                *dx = E::from_f32(dx.to_f32() + rstd * (wdy - x.to_f32() * c));
            }
        }
    }
}
