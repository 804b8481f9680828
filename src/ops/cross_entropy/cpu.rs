//! Cross-entropy on the CPU: a row is one block of work and stays in cache for its three passes.

use rayon::prelude::*;

use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, Element};

pub fn forward(cpu: &Cpu, vocab: usize, logits: &[f32], targets: &[u32], losses: &mut [f32]) {
    cpu.install(|| {
        let rows = logits.par_chunks(vocab).zip(targets).zip(losses);
        rows.for_each(|((logits, &target), loss)| {
            *loss = cpu.level.run(Forward { logits }).loss(logits[target as usize]);
        });
    });
}

pub fn forward_backward<E: Element>(
    cpu: &Cpu,
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    scale: f32,
    losses: &mut [f32],
    dlogits: &mut [E],
) {
    cpu.install(|| {
        let rows =
            logits.par_chunks(vocab).zip(dlogits.par_chunks_mut(vocab)).zip(targets).zip(losses);
        rows.for_each(|(((logits, dlogits), &target), loss)| {
            let target = target as usize;
            let softmax = cpu.level.run(Forward { logits });
            *loss = softmax.loss(logits[target]);
            cpu.level.run(Backward { logits, softmax, scale, dlogits: &mut *dlogits });
            // p - 1 = (e - Σ)/Σ in f64, where e is exactly the term that went into Σ.
            let e = f64::from(math::exp(logits[target] - softmax.max));
            let slope = (e - softmax.sum) / softmax.sum;
            dlogits[target] = E::from_f32((slope * f64::from(scale)) as f32);
        });
    });
}

/// What a row's softmax needs: p_j = e^(logit_j - max) / sum.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f64,
}

impl Softmax {
    fn loss(self, logit: f32) -> f32 {
        (self.sum.ln() + f64::from(self.max) - f64::from(logit)) as f32
    }
}

struct Forward<'a> {
    logits: &'a [f32],
}

impl Kernel for Forward<'_> {
    type Output = Softmax;

    #[inline(always)]
    fn run(self) -> Softmax {
        let max = math::max(self.logits);
        let sum = math::sum(self.logits, |logit| f64::from(math::exp(logit - max)));
        Softmax { max, sum }
    }
}

struct Backward<'a, E> {
    logits: &'a [f32],
    softmax: Softmax,
    scale: f32,
    dlogits: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let max = self.softmax.max;
        let factor = (f64::from(self.scale) / self.softmax.sum) as f32;
        for (dlogit, logit) in self.dlogits.iter_mut().zip(self.logits) {
            *dlogit = E::from_f32(math::exp(logit - max) * factor);
        }
    }
}
