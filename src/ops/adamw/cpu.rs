//! AdamW on the CPU: one pass over the four arrays.

use rayon::prelude::*;

use super::Hyper;
use crate::device::cpu::Cpu;
use crate::device::cpu::simd::Kernel;

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
    let bias1 = 1.0 - hyper.beta1.powf(hyper.step as f64);
    let bias2 = 1.0 - hyper.beta2.powf(hyper.step as f64);
    let factors = Factors {
        decay: (1.0 - hyper.lr * hyper.weight_decay) as f32,
        grad_scale,
        m_weight: (1.0 - hyper.beta1) as f32,
        v_keep: hyper.beta2 as f32,
        v_weight: (1.0 - hyper.beta2) as f32,
        root_bias2: bias2.sqrt() as f32,
        eps: hyper.eps as f32,
        step_size: (hyper.lr / bias1) as f32,
    };
    cpu.install(|| {
        let blocks = params
            .par_chunks_mut(BLOCK)
            .zip(grads.par_chunks(BLOCK))
            .zip(m.par_chunks_mut(BLOCK))
            .zip(v.par_chunks_mut(BLOCK));
        blocks.for_each(|(((params, grads), m), v)| {
            cpu.level.run(Step { factors, params, grads, m, v });
        });
    });
}

#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    grad_scale: f32,
    m_weight: f32,
    v_keep: f32,
    v_weight: f32,
    root_bias2: f32,
    eps: f32,
    step_size: f32,
}

struct Step<'a> {
    factors: Factors,
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
            let g = g * f.grad_scale;
            *m += f.m_weight * (g - *m);
            *v = f.v_keep * *v + f.v_weight * (g * g);
            let denominator = v.sqrt() / f.root_bias2 + f.eps;
            *p = *p * f.decay - f.step_size * (*m / denominator);
        }
    }
}
