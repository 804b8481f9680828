//! dropout: timing, beside copying the same bytes.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::dropout::{Mask, backward, forward, reference};
use dayrun::philox::Moment;
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan, to_f64};

/// 1024 tokens of the demo model's inner width.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let n = 1024 * 1536;
    let cpu = Cpu::new(0);
    let mask = Mask::new(Moment::default(), 0, 0.1);
    let x = cast::<E>(&Rng::new(1).values(n, 1.0));
    let mut out = nan::<E>(n);
    forward(&cpu, mask, &x, &mut out).unwrap();
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(2);
    assert_close("dropout", &out, &reference::forward(mask, &to_f64(&x)), tol);

    let mut group = c.benchmark_group(format!("dropout/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes((2 * n * size_of::<E>()) as u64));
    group.bench_function("forward", |b| b.iter(|| forward(&cpu, mask, &x, &mut out).unwrap()));
    group.bench_function("copy, one thread", |b| b.iter(|| out.copy_from_slice(&x)));
    group.bench_function("backward", |b| b.iter(|| backward(&cpu, mask, &x, &mut out).unwrap()));
    group.finish();
}

/// 4096 tokens of an 8B model's inner width on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::dropout::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let n = 4096 * 14_336;
    let mask = Mask::new(Moment::default(), 0, 0.1);
    let x = cast::<bf16>(&Rng::new(1).values(n, 1.0));
    let on_x = gpu.upload(&x).unwrap();
    let mut out = gpu.alloc::<bf16>(n).unwrap();
    cuda::forward(&gpu, mask, on_x.view(), &mut out.view_mut()).unwrap();
    let tol = Tol::new(DType::Bf16).rounds(1).steps(2);
    let want = reference::forward(mask, &to_f64(&x));
    assert_close("dropout", &gpu.download(out.view()).unwrap(), &want, tol);

    let mut group = c.benchmark_group(format!("dropout/{}", gpu.name()));
    group.throughput(Throughput::Bytes(2 * 2 * n as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            cuda::forward(&gpu, mask, on_x.view(), &mut out.view_mut()).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
