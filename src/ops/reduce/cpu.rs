//! Reductions on the CPU: a binary tree over blocks, whose shape depends on the length alone
//! (rayon's own `reduce` splits by what the threads happen to do).

use rayon::prelude::*;

use crate::device::cpu::Cpu;
use crate::device::cpu::simd::{Kernel, math};

/// Elements in one block of work.
const BLOCK: usize = 1 << 14;

pub fn sum_of_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    cpu.install(|| tree(x, &|block| cpu.level.run(SumOfSquares(block))))
}

pub fn sum(cpu: &Cpu, x: &[f32]) -> f64 {
    cpu.install(|| tree(x, &|block| cpu.level.run(Sum(block))))
}

pub fn first_non_finite(cpu: &Cpu, x: &[f32]) -> Option<usize> {
    cpu.install(|| {
        x.par_chunks(BLOCK).enumerate().find_map_first(|(block, x)| {
            if cpu.level.run(AllFinite(x)) {
                return None;
            }
            x.iter().position(|x| !x.is_finite()).map(|i| block * BLOCK + i)
        })
    })
}

fn tree(x: &[f32], leaf: &(impl Fn(&[f32]) -> f64 + Sync)) -> f64 {
    if x.len() <= BLOCK {
        return leaf(x);
    }
    let (left, right) = x.split_at(x.len().div_ceil(BLOCK) / 2 * BLOCK);
    let (left, right) = rayon::join(|| tree(left, leaf), || tree(right, leaf));
    left + right
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
