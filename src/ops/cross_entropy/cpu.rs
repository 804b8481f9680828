//! Cross-entropy on the CPU: a row is one block of work and stays in cache for its three passes.

use crate::device::cpu::simd::convert::BLOCK;
use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, Element, Level, chunks, chunks_mut};

pub fn forward(cpu: &Cpu, vocab: usize, logits: &[f32], targets: &[u32], losses: &mut [f32]) {
    let rows = (chunks(logits, vocab), chunks(targets, 1), chunks_mut(losses, 1));
    cpu.blocks(rows, |(logits, target, loss)| {
        let target = target[0] as usize;
        loss[0] = cpu.level.run(Forward { logits, target }).loss(logits[target]);
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
    let level = cpu.level;
    let rows = (
        chunks(logits, vocab),
        chunks_mut(dlogits, vocab),
        chunks(targets, 1),
        chunks_mut(losses, 1),
    );
    cpu.blocks(rows, |(logits, dlogits, target, loss)| {
        let target = target[0] as usize;
        let softmax = level.run(Forward { logits, target });
        loss[0] = softmax.loss(logits[target]);
        level.run(Backward { level, logits, softmax, scale, dlogits: &mut *dlogits });
        // p - 1, without the difference.
        let slope = -softmax.others / softmax.sum;
        dlogits[target] = E::from_f32((slope * f64::from(scale)) as f32);
    });
}

/// What a row's softmax needs: p_j = e^(logit_j - max) / sum, and the sum without the target's term.
#[derive(Clone, Copy)]
struct Softmax {
    max: f32,
    sum: f64,
    others: f64,
}

impl Softmax {
    fn loss(self, logit: f32) -> f32 {
        (self.sum.ln() + f64::from(self.max) - f64::from(logit)) as f32
    }
}

struct Forward<'a> {
    logits: &'a [f32],
    target: usize,
}

impl Kernel for Forward<'_> {
    type Output = Softmax;

    #[inline(always)]
    fn run(self) -> Softmax {
        let max = math::max(self.logits);
        let (before, rest) = self.logits.split_at(self.target);
        let mut others = 0.0;
        for part in [before, &rest[1..]] {
            others += math::sum_in_f64(part, |logit| math::exp(logit - max));
        }
        let sum = others + f64::from(math::exp(rest[0] - max));
        Softmax { max, sum, others }
    }
}

struct Backward<'a, E> {
    level: Level,
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
        let mut block = [0f32; BLOCK];
        for (logits, dlogits) in self.logits.chunks(BLOCK).zip(self.dlogits.chunks_mut(BLOCK)) {
            let block = &mut block[..dlogits.len()];
            for (out, logit) in block.iter_mut().zip(logits) {
                *out = E::exp(logit - max) * factor;
            }
            E::round(self.level, block, dlogits);
        }
    }
}
