//! Training steps allocate nothing, on any thread: from the first on where the engine was made on the thread
//! that runs it, else once that thread's scratch has grown.
//!
//! One test alone in its binary, because the allocator counts for the whole process.

#[path = "common/alloc.rs"]
mod alloc;
// Not all of tests/common: its own tests would run beside this one.
#[allow(dead_code)]
mod common {
    pub mod inputs;
    pub use inputs::Rng;
}
#[allow(dead_code)]
#[path = "model/tiny.rs"]
mod tiny;

use dayrun::device::cpu::GemmElement;
use dayrun::device::memory::Placement;
use dayrun::model::Loaded;
use dayrun::model::config::Linear;
use dayrun::train::{Trainer, TrainerOptions};
use half::bf16;

use alloc::{Counting, counted};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and their bytes in `STEPS` steps, run from the thread that made the engine, or, after the
/// first few, inside the device's pool.
///
/// One document is longer than a block of attention's backward (256 tokens at most), so that sums between
/// blocks are needed.
fn allocations<E: GemmElement>(inside: bool) -> (usize, usize) {
    // NF4, bf16 and f32 side by side.
    let weights = tiny::mixed(&tiny::weights(64, true));
    let adapter = tiny::adapter(&weights.config, 8, &Linear::ALL, 1);
    let options = TrainerOptions {
        micro_batch_tokens: 640,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        neftune_alpha: 0.0,
        seed: 0,
        placement: Placement::Packed,
    };
    let cpu = tiny::cpu();
    let mut trainer =
        Trainer::<E>::new(&Loaded::on_cpu(cpu.clone(), weights), adapter, options).unwrap();
    let large = [tiny::pack(&tiny::documents(&[150, 330, 30, 20, 110], 1))];
    let small = [tiny::pack(&tiny::documents(&[9], 2)), large[0].clone()];
    let mut run = || {
        for _ in 0..if inside { 5 } else { 0 } {
            trainer.step(&large, 1e-4).unwrap();
            trainer.step(&small, 1e-4).unwrap();
        }
        let before = counted();
        for step in 0..STEPS {
            trainer.step(if step % 3 == 0 { &small } else { &large }, 1e-4).unwrap();
        }
        let after = counted();
        (after.0 - before.0, after.1 - before.1)
    };
    if inside { cpu.install(run) } else { run() }
}

const STEPS: usize = 200;

#[test]
fn steps_allocate_nothing() {
    assert!(counted().0 > 0, "the allocator does not count");
    // First, so that nothing but the engine has grown this thread's scratch.
    assert_eq!(allocations::<bf16>(false), (0, 0));
    assert_eq!(allocations::<f32>(false), (0, 0));
    assert_eq!(allocations::<f32>(true), (0, 0));
    assert_eq!(allocations::<bf16>(true), (0, 0));
}
