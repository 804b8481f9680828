//! SwiGLU on the CPU.

use crate::device::cpu::simd::Kernel;
use crate::device::cpu::simd::convert::BLOCK;
use crate::device::cpu::{Cpu, Element, Level, chunks, chunks_mut};

/// Elements in one task.
const TASK: usize = 1 << 14;

pub fn forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], h: &mut [E]) {
    let level = cpu.level;
    cpu.blocks((chunks(gate, TASK), chunks(up, TASK), chunks_mut(h, TASK)), |(gate, up, h)| {
        level.run(Forward { level, gate, up, h });
    });
}

pub fn backward<E: Element>(cpu: &Cpu, gate: &mut [E], up: &mut [E], dh: &mut [E]) {
    let level = cpu.level;
    let blocks = (chunks_mut(gate, TASK), chunks_mut(up, TASK), chunks_mut(dh, TASK));
    cpu.blocks(blocks, |(gate, up, dh)| level.run(Backward { level, gate, up, dh }));
}

/// (silu(g) rounded to E, σ(g)). One function for both directions, so that h has the same bits.
#[inline(always)]
fn silu<E: Element>(g: f32) -> (f32, f32) {
    let sigma = 1.0 / (1.0 + E::exp(-g));
    (E::rounded(g * sigma), sigma)
}

struct Forward<'a, E> {
    level: Level,
    gate: &'a [E],
    up: &'a [E],
    h: &'a mut [E],
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut block = [0f32; BLOCK];
        let parts = self.gate.chunks(BLOCK).zip(self.up.chunks(BLOCK));
        for ((gate, up), h) in parts.zip(self.h.chunks_mut(BLOCK)) {
            let block = &mut block[..h.len()];
            for ((out, gate), up) in block.iter_mut().zip(gate).zip(up) {
                *out = silu::<E>(gate.to_f32()).0 * up.to_f32();
            }
            E::round(self.level, block, h);
        }
    }
}

struct Backward<'a, E> {
    level: Level,
    gate: &'a mut [E],
    up: &'a mut [E],
    dh: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (mut dgate, mut dup, mut h) = ([0f32; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
        let parts = self.gate.chunks_mut(BLOCK).zip(self.up.chunks_mut(BLOCK));
        for ((gate, up), dh) in parts.zip(self.dh.chunks_mut(BLOCK)) {
            let n = gate.len();
            let (dgate, dup, h) = (&mut dgate[..n], &mut dup[..n], &mut h[..n]);
            let inputs = gate.iter().zip(&*up).zip(&*dh);
            let outputs = dgate.iter_mut().zip(&mut *dup).zip(&mut *h);
            for (((gate, up), dh), ((dgate, dup), h)) in inputs.zip(outputs) {
                let (g, u, d) = (gate.to_f32(), up.to_f32(), dh.to_f32());
                let (silu, sigma) = silu::<E>(g);
                // Not e^-g·σ for 1 - σ: where e^-g overflows that is inf·0.
                *dgate = d * u * (sigma * (1.0 + g * (1.0 - sigma)));
                *dup = d * silu;
                *h = silu * u;
            }
            E::round(self.level, dgate, gate);
            E::round(self.level, dup, up);
            E::round(self.level, h, dh);
        }
    }
}
