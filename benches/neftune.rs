//! neftune: timing, beside the embedding that it follows.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::embedding;
use dayrun::ops::neftune::{forward, reference};
use dayrun::philox::Moment;
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan, to_f64};

/// 1024 tokens of the demo model's hidden size, in four documents.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let (hidden, cu) = (576, [0, 100, 400, 1000, 1024]);
    let n = 1024 * hidden;
    let cpu = Cpu::new(0);
    let x = cast::<E>(&Rng::new(1).values(n, 1.0));
    let mut noisy = x.clone();
    forward(&cpu, 5.0, Moment::default(), &cu, hidden, &mut noisy).unwrap();
    let want = reference::forward(5.0, Moment::default(), &cu, hidden, &to_f64(&x));
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(5).magnitude(4.0);
    assert_close("neftune", &noisy, &want, tol);

    let table = cast::<bf16>(&Rng::new(2).values(2048 * hidden, 1.0));
    let tokens: Vec<u32> = (0..1024).map(|i| (i * 577) % 2048).collect();
    let mut out = nan::<E>(n);
    let mut group = c.benchmark_group(format!("neftune/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes((2 * n * size_of::<E>()) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| forward(&cpu, 5.0, Moment::default(), &cu, hidden, &mut noisy).unwrap());
    });
    group.bench_function("embedding", |b| {
        b.iter(|| embedding::forward(&cpu, &tokens, &table, hidden, &mut out).unwrap());
    });
    group.finish();
}

/// 4096 tokens of an 8B model's hidden size on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::neftune::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (tokens, hidden) = (4096, 4096);
    let x = cast::<bf16>(&Rng::new(1).values(tokens * hidden, 1.0));
    let cu = gpu.upload(&[0u32, 1000, 4096]).unwrap();
    let mut on_x = gpu.upload(&x).unwrap();
    let mut group = c.benchmark_group(format!("neftune/{}", gpu.name()));
    group.throughput(Throughput::Bytes(2 * 2 * (tokens * hidden) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let (moment, to) = (Moment::default(), &mut on_x.view_mut());
            cuda::forward(&gpu, 5.0, moment, cu.view(), 2, tokens, hidden, to).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
