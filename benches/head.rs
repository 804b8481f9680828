//! head: timing of one chunk of loss positions, beside candle's f32 matmul.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::head::{backward, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, abs_product, assert_close, cast, nan};

/// 256 positions of the demo model's width and vocabulary.
fn bench<E: GemmElement>(c: &mut Criterion) {
    let (m, hidden, vocab, checked) = (256, 576, 49_152, 2);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_h, wide_w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 0.05));
    let (h, w) = (cast::<E>(&wide_h), cast::<bf16>(&wide_w));
    let dlogits = cast::<E>(&rng.values(m * vocab, 1.0));
    let (mut logits, mut dh) = (nan::<f32>(m * vocab), nan::<E>(m * hidden));
    forward(&cpu, m, hidden, &h, &w, &mut logits).unwrap();
    let want = reference::forward(checked, hidden, vocab, &wide_h, &wide_w);
    let bounds = abs_product(checked, hidden, vocab, &wide_h, &wide_w);
    let tol = Tol::new(DType::F32).sum_len(hidden).magnitudes(&bounds).cols(vocab);
    assert_close("head.logits", &logits[..checked * vocab], &want, tol);

    let mut group = c.benchmark_group(format!("head/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(2 * (m * hidden * vocab) as u64));
    group.bench_function("forward", |bench| {
        bench.iter(|| forward(&cpu, m, hidden, &h, &w, &mut logits).unwrap());
    });
    group.bench_function("backward", |bench| {
        bench.iter(|| backward(&cpu, m, hidden, &dlogits, &w, &mut dh).unwrap());
    });
    if E::NAME == "f32" {
        let h = Tensor::from_vec(cast::<f32>(&wide_h), (m, hidden), &Device::Cpu).unwrap();
        let w = Tensor::from_vec(cast::<f32>(&wide_w), (vocab, hidden), &Device::Cpu).unwrap();
        let w = w.t().unwrap();
        group.bench_function("candle f32", |bench| bench.iter(|| h.matmul(&w).unwrap()));
    }
    group.finish();
}

/// 1024 positions of a 7B model on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::head::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (m, hidden, vocab, checked) = (1024, 4096, 32_000, 1);
    let mut rng = Rng::new(1);
    let (wide_h, wide_w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 0.02));
    let (h, w) = (cast::<bf16>(&wide_h), cast::<bf16>(&wide_w));
    let (h, w) = (gpu.upload(&h).unwrap(), gpu.upload(&w).unwrap());
    let dlogits = gpu.upload(&vec![bf16::ONE; m * vocab]).unwrap();
    let mut logits = gpu.alloc::<f32>(m * vocab).unwrap();
    let mut dh = gpu.alloc::<bf16>(m * hidden).unwrap();
    let mut forward = || {
        let logits = &mut logits.view_mut();
        cuda::forward(&gpu, m, hidden, h.view(), w.view(), logits, vocab).unwrap();
        gpu.synchronize().unwrap();
    };
    forward();
    let mut group = c.benchmark_group(format!("head/{}", gpu.name()));
    group.sample_size(10).throughput(Throughput::Elements(2 * (m * hidden * vocab) as u64));
    group.bench_function("forward", |bench| bench.iter(&mut forward));
    group.bench_function("backward", |bench| {
        bench.iter(|| {
            let dh = &mut dh.view_mut();
            cuda::backward(&gpu, m, hidden, dlogits.view(), vocab, w.view(), dh).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
    let want = reference::forward(checked, hidden, vocab, &wide_h, &wide_w);
    let bounds = abs_product(checked, hidden, vocab, &wide_h, &wide_w);
    let tol = Tol::new(DType::F32).sum_len(hidden).magnitudes(&bounds).cols(vocab);
    let got = gpu.download(logits.view().slice(0..checked * vocab)).unwrap();
    assert_close("head.logits", &got, &want, tol);
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
