//! reduce: timing, beside the iterator's sum.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::Cpu;
use dayrun::ops::reduce::{first_non_finite, reference, sum_of_squares};

use common::{DType, Rng, Tol, assert_close, cast};

/// As many gradients as rank-16 adapters of the demo model have.
fn bench(c: &mut Criterion) {
    let n = 4_884_480;
    let cpu = Cpu::new(0);
    let wide = Rng::new(1).values(n, 1.0);
    let x = cast::<f32>(&wide);
    let got = sum_of_squares(&cpu, &x);
    let tol = Tol::new(DType::F64).rounds(2 * n);
    assert_close("reduce.sum_of_squares", &[got], &[reference::sum_of_squares(&wide)], tol);
    assert_eq!(first_non_finite(&cpu, &x), None);

    let mut group = c.benchmark_group("reduce");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Bytes(4 * n as u64));
    group.bench_function("sum_of_squares", |b| b.iter(|| sum_of_squares(&cpu, &x)));
    group.bench_function("iterator sum in f64, one thread", |b| {
        b.iter(|| x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>());
    });
    group.bench_function("first_non_finite", |b| b.iter(|| first_non_finite(&cpu, &x)));
    group.finish();
}

/// As many gradients as rank-16 adapters of an 8B model have, on the GPU, if there is one; each time waits
/// for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::reduce::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let n = 41_943_040;
    let wide = Rng::new(1).values(n, 1.0);
    let x = gpu.upload(&cast::<f32>(&wide)).unwrap();
    let mut scratch = gpu.alloc::<f64>(cuda::SCRATCH).unwrap();
    let mut out = gpu.alloc::<f64>(1).unwrap();
    let run = |scratch: &mut Buf<f64>, out: &mut Buf<f64>| {
        let (work, to) = (&mut scratch.view_mut(), &mut out.view_mut());
        cuda::sum_of_squares(&gpu, x.view(), work, to).unwrap();
        gpu.synchronize().unwrap();
    };
    run(&mut scratch, &mut out);
    let tol = Tol::new(DType::F64).rounds(2 * n);
    let want = reference::sum_of_squares(&wide);
    assert_close("reduce.sum_of_squares", &gpu.download(out.view()).unwrap(), &[want], tol);

    let mut group = c.benchmark_group(format!("reduce/{}", gpu.name()));
    group.throughput(Throughput::Bytes(4 * n as u64));
    group.bench_function("sum_of_squares", |b| b.iter(|| run(&mut scratch, &mut out)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench, cuda);
criterion_main!(benches);
