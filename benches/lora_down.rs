//! lora_down: timing for the stacked A's of q, k and v, beside candle's f32 matmul.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::lora_down::{Dims, backward, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, abs_product, assert_close, cast, nan};

/// 1024 tokens of the demo model's width, three adapters of rank 16; scale 2.
fn bench<E: GemmElement + Into<f64>>(c: &mut Criterion) {
    let (m, n, r) = (1024, 576, 48);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_x, wide_a) = (rng.values(m * n, 1.0), rng.values(r * n, 0.05));
    let (x, a, b) = (cast::<E>(&wide_x), cast::<E>(&wide_a), cast::<E>(&rng.values(n * r, 0.05)));
    let mut v = nan::<E>(m * r);
    let dims = Dims { m, width: n, r, ld: r };
    forward(&cpu, dims, 2.0, &x, &a, &mut v).unwrap();
    let want = reference::forward(m, n, r, 2.0, &wide_x, &wide_a);
    let bounds: Vec<f64> =
        abs_product(m, n, r, &wide_x, &wide_a).into_iter().map(|bound| 2.0 * bound).collect();
    let tol = Tol::new(DType::of::<E>()).sum_len(n).magnitudes(&bounds).round_result();
    assert_close("lora_down.V", &v, &want, tol.cols(r));

    let mut group = c.benchmark_group(format!("lora_down/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(2 * (m * n * r) as u64));
    group.bench_function("forward", |bench| {
        bench.iter(|| forward(&cpu, dims, 2.0, &x, &a, &mut v).unwrap());
    });
    group.bench_function("backward", |bench| {
        bench.iter(|| backward(&cpu, dims, 2.0, &x, &b, &mut v).unwrap());
    });
    if E::NAME == "f32" {
        let x = Tensor::from_vec(cast::<f32>(&wide_x), (m, n), &Device::Cpu).unwrap();
        let a = Tensor::from_vec(cast::<f32>(&wide_a), (r, n), &Device::Cpu).unwrap();
        let a = a.t().unwrap();
        group.bench_function("candle f32", |bench| bench.iter(|| x.matmul(&a).unwrap()));
    }
    group.finish();
}

/// 4096 tokens of an 8B model, three adapters of rank 16, on the GPU, if there is one.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::lora_down::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (m, n, r, checked) = (4096, 4096, 48, 16);
    let mut rng = Rng::new(1);
    let (wide_x, wide_a) = (rng.values(m * n, 1.0), rng.values(r * n, 0.05));
    let (x, a) = (cast::<bf16>(&wide_x), cast::<bf16>(&wide_a));
    let (x, a) = (gpu.upload(&x).unwrap(), gpu.upload(&a).unwrap());
    let (mut v, mut u) = (gpu.alloc(m * r).unwrap(), gpu.alloc(m * r).unwrap());
    let mut forward = || {
        cuda::forward(&gpu, m, n, r, 2.0, x.view(), a.view(), &mut v.view_mut(), r).unwrap();
        gpu.synchronize().unwrap();
    };
    forward();
    let mut group = c.benchmark_group(format!("lora_down/{}", gpu.name()));
    group.throughput(Throughput::Elements(2 * (m * n * r) as u64));
    group.bench_function("forward", |bench| bench.iter(&mut forward));
    group.bench_function("backward", |bench| {
        bench.iter(|| {
            let (dy, b) = (x.view(), a.view());
            cuda::backward(&gpu, m, n, r, 2.0, dy, b, &mut u.view_mut(), r).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
    let want = reference::forward(checked, n, r, 2.0, &wide_x, &wide_a);
    let bounds = abs_product(checked, n, r, &wide_x, &wide_a);
    let bounds: Vec<f64> = bounds.into_iter().map(|bound| 2.0 * bound).collect();
    let tol = Tol::new(DType::Bf16).sum_len(n).magnitudes(&bounds).round_result();
    let got = gpu.download(v.view().slice(0..checked * r)).unwrap();
    assert_close("lora_down.V", &got, &want, tol.cols(r));
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
