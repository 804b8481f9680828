//! nf4_quantize: timing on a GPU, if there is one, beside the CPU's quantiser.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};

/// A 1024 x 4096 weight in f32.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use criterion::Throughput;
    use dayrun::ops::nf4_quantize::cuda;
    use dayrun::quant::quantise;
    let Some(gpu) = common::gpu::any() else { return };
    let (rows, cols) = (1024, 4096);
    let mut rng = common::Rng::new(1);
    let values: Vec<f32> = (0..rows * cols).map(|_| rng.uniform() as f32 - 0.5).collect();
    let x = gpu.upload(&values).unwrap();
    let mut codes = gpu.alloc::<u8>(rows * cols / 2).unwrap();
    let mut absmax = gpu.alloc::<f32>(rows * cols / 64).unwrap();
    let mut run = || {
        cuda::forward_f32(&gpu, x.view(), &mut codes.view_mut(), &mut absmax.view_mut()).unwrap();
        gpu.synchronize().unwrap();
    };
    run();
    let mut group = c.benchmark_group(format!("nf4_quantize/{}", gpu.name()));
    group.throughput(Throughput::Elements((rows * cols) as u64));
    group.bench_function("forward_f32", |b| b.iter(&mut run));
    group.bench_function("on the CPU", |b| b.iter(|| quantise(rows, cols, &values).unwrap()));
    group.finish();
    let want = quantise(rows, cols, &values).unwrap();
    assert!(gpu.download(codes.view()).unwrap() == want.codes[..], "nf4_quantize");
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, cuda);
criterion_main!(benches);
