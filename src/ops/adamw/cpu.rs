//! AdamW on the CPU: one pass over the four arrays.

use super::{Factors, Hyper};
use crate::device::cpu::simd::Kernel;
use crate::device::cpu::{Cpu, chunks, chunks_mut};

/// Elements in one block of work.
const BLOCK: usize = 1 << 14;

pub fn step(
    cpu: &Cpu,
    hyper: &Hyper,
    grad_scale: f32,
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let factors = Factors::new(hyper);
    let blocks = (
        chunks_mut(params, BLOCK),
        chunks(grads, BLOCK),
        chunks_mut(m, BLOCK),
        chunks_mut(v, BLOCK),
    );
    cpu.blocks(blocks, |(params, grads, m, v)| {
        cpu.level.run(Step { factors, grad_scale, params, grads, m, v });
    });
}

struct Step<'a> {
    factors: Factors,
    grad_scale: f32,
    params: &'a mut [f32],
    grads: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let f = self.factors;
        for (((p, g), m), v) in self.params.iter_mut().zip(self.grads).zip(self.m).zip(self.v) {
            let g = g * self.grad_scale;
            *m += f.m_weight * (g - *m);
            *v = f.v_keep * *v + f.v_weight * (g * g);
            let denominator = v.sqrt() / f.root_bias2 + f.eps;
            *p = *p * f.decay - f.step_size * (*m / denominator);
        }
    }
}
