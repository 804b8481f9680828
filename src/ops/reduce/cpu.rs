//! Reductions on the CPU: at most [`STRETCHES`] of them side by side, whose bounds depend on the
//! length alone, put together in order.

use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, chunks, chunks_mut};

/// Most stretches of an array, and elements below which one is not cut.
const STRETCHES: usize = 64;
const BLOCK: usize = 1 << 14;

pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    stretches(cpu, x, 0.0, |x| cpu.level.run(SumOfSquares(x))).into_iter().sum()
}

pub fn sum(cpu: &Cpu, x: &[f32]) -> f64 {
    stretches(cpu, x, 0.0, |x| cpu.level.run(Sum(x))).into_iter().sum()
}

pub fn first_non_finite(cpu: &Cpu, x: &[f32]) -> Option<usize> {
    let first = |x: &[f32]| {
        let (i, block) =
            x.chunks(BLOCK).enumerate().find(|(_, block)| !cpu.level.run(AllFinite(block)))?;
        block.iter().position(|x| !x.is_finite()).map(|at| i * BLOCK + at)
    };
    let places = stretches(cpu, x, None, first);
    places.iter().enumerate().find_map(|(i, place)| place.map(|at| i * stretch(x.len()) + at))
}

/// Elements of a stretch.
fn stretch(len: usize) -> usize {
    len.div_ceil(STRETCHES).next_multiple_of(BLOCK).max(BLOCK)
}

/// `f` of each stretch, in order; `none` fills the rest.
fn stretches<R: Copy + Send>(
    cpu: &Cpu,
    x: &[f32],
    none: R,
    f: impl Fn(&[f32]) -> R + Sync,
) -> [R; STRETCHES] {
    let mut results = [none; STRETCHES];
    let blocks = chunks(x, stretch(x.len()));
    let count = x.len().div_ceil(stretch(x.len()));
    cpu.blocks((blocks, chunks_mut(&mut results[..count], 1)), |(x, result)| result[0] = f(x));
    results
}

struct SumOfSquares<'a>(&'a [f32]);

impl Kernel for SumOfSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        math::sum(self.0, |x| f64::from(x) * f64::from(x))
    }
}

struct Sum<'a>(&'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        math::sum(self.0, f64::from)
    }
}

struct AllFinite<'a>(&'a [f32]);

impl Kernel for AllFinite<'_> {
    type Output = bool;

    /// Without an early exit, so that it vectorises: almost every block is finite.
    #[inline(always)]
    fn run(self) -> bool {
        self.0.iter().fold(true, |all, x| all & x.is_finite())
    }
}
