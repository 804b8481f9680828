//! NEFTune on the CPU: rows in blocks.

use super::{STREAM, magnitude, uniform};
use crate::device::cpu::{Cpu, Element, chunks_mut, numbers};
use crate::philox::Moment;

/// Rows in one task.
const ROWS: usize = 16;

pub fn forward<E: Element>(
    cpu: &Cpu,
    alpha: f64,
    moment: Moment,
    cu_seqlens: &[u32],
    hidden: usize,
    x: &mut [E],
) {
    if hidden == 0 {
        return;
    }
    let tasks = numbers(x.len().div_ceil(ROWS * hidden));
    cpu.blocks((tasks, chunks_mut(x, ROWS * hidden)), |(task, x)| {
        for (i, row) in x.chunks_exact_mut(hidden).enumerate() {
            let token = task * ROWS + i;
            let document = cu_seqlens.partition_point(|&start| start as usize <= token);
            let length = cu_seqlens[document] - cu_seqlens[document - 1];
            add(moment, magnitude(alpha, length, hidden), token * hidden, row);
        }
    });
}

/// Adds the noise of elements `first`, `first + 1`, ...
fn add<E: Element>(moment: Moment, magnitude: f32, first: usize, row: &mut [E]) {
    let mut index = first / 4;
    let mut words = moment.words(STREAM, index as u32);
    for (i, x) in row.iter_mut().enumerate() {
        let place = first + i;
        if place / 4 != index {
            index = place / 4;
            words = moment.words(STREAM, index as u32);
        }
        *x = E::from_f32(x.to_f32() + magnitude * uniform(words[place % 4]));
    }
}
