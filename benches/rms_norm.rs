//! rms_norm: timing, beside a plain loop.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::rms_norm::{add_forward, backward, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan};

const EPS: f32 = 1e-5;

fn naive<E: Element>(hidden: usize, x: &[E], w: &[bf16], y: &mut [E]) {
    for (x, y) in x.chunks_exact(hidden).zip(y.chunks_exact_mut(hidden)) {
        let squares: f32 = x.iter().map(|x| x.to_f32() * x.to_f32()).sum();
        let rstd = 1.0 / (squares / hidden as f32 + EPS).sqrt();
        for i in 0..hidden {
            y[i] = E::from_f32(w[i].to_f32() * E::from_f32(x[i].to_f32() * rstd).to_f32());
        }
    }
}

/// 1024 tokens of the demo model's width.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let (rows, hidden) = (1024, 576);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_x, wide_w) = (rng.values(rows * hidden, 1.0), rng.around_one(hidden));
    let (x, w) = (cast::<E>(&wide_x), cast::<bf16>(&wide_w));
    let dy = cast::<E>(&rng.values(rows * hidden, 1.0));
    let (mut y, mut rstd) = (nan::<E>(rows * hidden), nan::<f32>(rows));
    let (want, _) = reference::forward(hidden, EPS.into(), &wide_x, &wide_w);
    let tol = Tol::new(DType::of::<E>()).rounds(2).steps(8).sum_len(hidden).cols(hidden);
    naive(hidden, &x, &w, &mut y);
    assert_close("naive y", &y, &want, tol);
    forward(&cpu, hidden, EPS, &x, &w, &mut y, &mut rstd).unwrap();
    assert_close("rms_norm.y", &y, &want, tol);

    let mut group = c.benchmark_group(format!("rms_norm/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    // Forward reads x and writes y; the addition also reads the residual and writes the sum;
    // backward reads x and dy, reads and writes dx.
    let array = (rows * hidden * size_of::<E>()) as u64;
    group.throughput(Throughput::Bytes(2 * array));
    group.bench_function("forward", |b| {
        b.iter(|| forward(&cpu, hidden, EPS, &x, &w, &mut y, &mut rstd).unwrap());
    });
    group.bench_function("plain loop, one thread", |b| b.iter(|| naive(hidden, &x, &w, &mut y)));
    group.throughput(Throughput::Bytes(4 * array));
    let residual = cast::<E>(&rng.values(rows * hidden, 1.0));
    let mut sum = nan::<E>(rows * hidden);
    group.bench_function("add_forward", |b| {
        b.iter(|| {
            add_forward(&cpu, hidden, EPS, &x, &residual, &mut sum, &w, &mut y, &mut rstd).unwrap();
        });
    });
    let mut dx = dy.clone();
    group.bench_function("backward", |b| {
        b.iter(|| backward(&cpu, hidden, &x, &w, &rstd, &dy, &mut dx).unwrap());
    });
    group.finish();
}

/// 4096 tokens of a 4096 wide model on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::rms_norm::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (rows, hidden) = (4096, 4096);
    let mut rng = Rng::new(1);
    let (wide_x, wide_w) = (rng.values(rows * hidden, 1.0), rng.around_one(hidden));
    let x = gpu.upload(&cast::<bf16>(&wide_x)).unwrap();
    let w = gpu.upload(&cast::<bf16>(&wide_w)).unwrap();
    let (mut y, mut rstd) = (gpu.alloc(rows * hidden).unwrap(), gpu.alloc(rows).unwrap());
    let mut run = || {
        let (y, rstd) = (&mut y.view_mut(), &mut rstd.view_mut());
        cuda::forward(&gpu, hidden, EPS, x.view(), w.view(), y, rstd).unwrap();
        gpu.synchronize().unwrap();
    };
    run();
    let mut group = c.benchmark_group(format!("rms_norm/{}", gpu.name()));
    group.throughput(Throughput::Bytes(4 * (rows * hidden) as u64));
    group.bench_function("forward", |b| b.iter(&mut run));
    group.finish();
    let (want, _) = reference::forward(hidden, EPS.into(), &wide_x, &wide_w);
    let tol = Tol::new(DType::Bf16).rounds(2).steps(8).sum_len(hidden).cols(hidden);
    assert_close("rms_norm.y", &gpu.download(y.view()).unwrap(), &want, tol);
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
