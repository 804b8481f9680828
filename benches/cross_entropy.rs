//! cross_entropy: timing, beside a plain loop with the standard library's exp.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::cross_entropy::{forward, forward_backward, reference};
use half::bf16;

use common::tol::QUICK_EXP_STEPS;
use common::{DType, Rng, Tol, assert_close, cast, nan};

fn naive<E: Element>(
    vocab: usize,
    logits: &[f32],
    targets: &[u32],
    scale: f32,
    losses: &mut [f32],
    dlogits: &mut [E],
) {
    let rows = logits.chunks_exact(vocab).zip(dlogits.chunks_exact_mut(vocab));
    for (((logits, dlogits), &target), loss) in rows.zip(targets).zip(losses) {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
        *loss = (sum.ln() + f64::from(max) - f64::from(logits[target as usize])) as f32;
        for (j, (dlogit, logit)) in dlogits.iter_mut().zip(logits).enumerate() {
            let p = (logit - max).exp() / sum as f32;
            let hit = if j == target as usize { 1.0 } else { 0.0 };
            *dlogit = E::from_f32((p - hit) * scale);
        }
    }
}

/// 128 positions of the demo model's vocabulary.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let (positions, vocab) = (128, 49_152);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let wide = rng.values(positions * vocab, 2.0);
    let logits = cast::<f32>(&wide);
    let targets = rng.indices(positions, vocab);
    let (mut losses, mut dlogits) = (nan::<f32>(positions), nan::<E>(positions * vocab));
    let want_losses = reference::forward(vocab, &wide, &targets);
    let want = reference::backward(vocab, &wide, &targets, 0.125);
    naive(vocab, &logits, &targets, 0.125, &mut losses, &mut dlogits);
    assert_close("naive losses", &losses, &want_losses, Tol::new(DType::F32).steps(12));
    forward_backward(&cpu, vocab, &logits, &targets, 0.125, &mut losses, &mut dlogits).unwrap();
    assert_close("cross_entropy.losses", &losses, &want_losses, Tol::new(DType::F32).steps(12));
    // Logits lie within 24 of the maximum: their difference's rounding is that many steps.
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(32 + QUICK_EXP_STEPS).cols(vocab);
    assert_close("cross_entropy.dlogits", &dlogits, &want, tol);

    let mut group = c.benchmark_group(format!("cross_entropy/{}", E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    // Read: the logits. Written: their gradients.
    group.throughput(Throughput::Bytes((logits.len() * (4 + size_of::<E>())) as u64));
    group.bench_function("forward_backward", |b| {
        b.iter(|| {
            forward_backward(&cpu, vocab, &logits, &targets, 0.125, &mut losses, &mut dlogits)
                .unwrap();
        });
    });
    group.bench_function("plain loop, one thread", |b| {
        b.iter(|| naive(vocab, &logits, &targets, 0.125, &mut losses, &mut dlogits));
    });
    group.throughput(Throughput::Bytes((logits.len() * 4) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| forward(&cpu, vocab, &logits, &targets, &mut losses).unwrap());
    });
    group.finish();
}

/// 512 positions of a vocabulary of 128,256 on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::cross_entropy::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (positions, vocab, scale) = (512, 128_256, 1.0 / 512.0);
    let mut rng = Rng::new(1);
    let wide = rng.values(positions * vocab, 3.0);
    let targets = rng.indices(positions, vocab);
    let want = reference::forward(vocab, &wide, &targets);
    let logits = gpu.upload(&cast::<f32>(&wide)).unwrap();
    let targets = gpu.upload(&targets).unwrap();
    let mut losses = gpu.alloc::<f32>(positions).unwrap();
    let mut dlogits = gpu.alloc::<bf16>(positions * vocab).unwrap();
    let run = |losses: &mut Buf<f32>, dlogits: &mut Buf<bf16>| {
        let (to, to_d) = (&mut losses.view_mut(), &mut dlogits.view_mut());
        let (logits, targets) = (logits.view(), targets.view());
        cuda::forward_backward(&gpu, vocab, logits, vocab, targets, scale, to, to_d, vocab)
            .unwrap();
        gpu.synchronize().unwrap();
    };
    run(&mut losses, &mut dlogits);
    let bounds: Vec<f64> = want.iter().map(|loss| 1.0 + loss).collect();
    let tol = Tol::new(DType::F32).steps(9).sum_len(vocab.div_ceil(512) + 21);
    let got = gpu.download(losses.view()).unwrap();
    assert_close("cross_entropy.losses", &got, &want, tol.magnitudes(&bounds));

    let mut group = c.benchmark_group(format!("cross_entropy/{}", gpu.name()));
    group.throughput(Throughput::Bytes(6 * (positions * vocab) as u64));
    group.bench_function("forward_backward", |b| b.iter(|| run(&mut losses, &mut dlogits)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
