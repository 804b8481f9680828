//! SwiGLU on the CPU.

use rayon::prelude::*;

use crate::device::cpu::simd::{Kernel, math};
use crate::device::cpu::{Cpu, Element};

/// Elements in one block of work.
const BLOCK: usize = 1 << 14;

pub fn forward<E: Element>(cpu: &Cpu, gate: &[E], up: &[E], h: &mut [E]) {
    cpu.install(|| {
        let blocks = gate.par_chunks(BLOCK).zip(up.par_chunks(BLOCK)).zip(h.par_chunks_mut(BLOCK));
        blocks.for_each(|((gate, up), h)| cpu.level.run(Forward { gate, up, h }));
    });
}

pub fn backward<E: Element>(cpu: &Cpu, gate: &mut [E], up: &mut [E], dh: &mut [E]) {
    cpu.install(|| {
        let blocks =
            gate.par_chunks_mut(BLOCK).zip(up.par_chunks_mut(BLOCK)).zip(dh.par_chunks_mut(BLOCK));
        blocks.for_each(|((gate, up), dh)| cpu.level.run(Backward { gate, up, dh }));
    });
}

/// (silu(g) rounded to E, e^-g). One function for both directions, so that h has the same bits.
#[inline(always)]
fn silu<E: Element>(g: f32) -> (f32, f32) {
    let exp = math::exp(-g);
    (E::from_f32(g / (1.0 + exp)).to_f32(), exp)
}

struct Forward<'a, E> {
    gate: &'a [E],
    up: &'a [E],
    h: &'a mut [E],
}

impl<E: Element> Kernel for Forward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((h, gate), up) in self.h.iter_mut().zip(self.gate).zip(self.up) {
            let (silu, _) = silu::<E>(gate.to_f32());
            *h = E::from_f32(silu * up.to_f32());
        }
    }
}

struct Backward<'a, E> {
    gate: &'a mut [E],
    up: &'a mut [E],
    dh: &'a mut [E],
}

impl<E: Element> Kernel for Backward<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((gate, up), dh) in self.gate.iter_mut().zip(self.up).zip(self.dh) {
            let (g, u, d) = (gate.to_f32(), up.to_f32(), dh.to_f32());
            let (silu, exp) = silu::<E>(g);
            let sigma = 1.0 / (1.0 + exp);
            // Not e^-g·σ for 1 - σ: where e^-g overflows that is inf·0.
            *gate = E::from_f32(d * u * (sigma * (1.0 + g * (1.0 - sigma))));
            *up = E::from_f32(d * silu);
            *dh = E::from_f32(silu * u);
        }
    }
}
