//! nf4_dequantize: timing on a GPU, if there is one, in bytes read and written.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};

/// A 4096 x 14336 weight.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use criterion::Throughput;
    use dayrun::ops::nf4_dequantize::cuda;
    use dayrun::quant::{double_quantise, quantise};
    use half::bf16;
    let Some(gpu) = common::gpu::any() else { return };
    let (rows, cols) = (4096, 14336);
    let mut rng = common::Rng::new(1);
    let values: Vec<f32> = (0..rows * cols).map(|_| rng.uniform() as f32 - 0.5).collect();
    let w = double_quantise(quantise(rows, cols, &values).unwrap());
    let weight = cuda::Weight::upload(&gpu, &w).unwrap();
    let mut out = gpu.alloc::<bf16>(rows * cols).unwrap();
    let mut run = || {
        cuda::forward(&gpu, &weight, &mut out.view_mut(), cols).unwrap();
        gpu.synchronize().unwrap();
    };
    run();
    let mut group = c.benchmark_group(format!("nf4_dequantize/{}", gpu.name()));
    let bytes = cuda::Weight::bytes_of(&w) + 2 * rows * cols;
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("forward", |b| b.iter(&mut run));
    group.finish();
    let want: Vec<bf16> = w.to_f32().into_iter().map(bf16::from_f32).collect();
    assert!(gpu.download(out.view()).unwrap() == want, "nf4_dequantize");
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, cuda);
criterion_main!(benches);
