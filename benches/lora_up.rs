//! lora_up: timing at a rank of 16, beside candle's f32 matmul.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::lora_up::{Dims, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan};

/// 1024 tokens of the demo model's width.
fn bench<E: GemmElement + Into<f64>>(c: &mut Criterion) {
    let (m, n, r) = (1024, 576, 16);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_u, wide_a) = (rng.values(m * r, 1.0), rng.values(r * n, 0.05));
    let (u, a) = (cast::<E>(&wide_u), cast::<E>(&wide_a));
    let mut t = nan::<E>(m * n);
    let dims = Dims { m, width: n, r, ld: r };
    forward(&cpu, dims, &u, &a, &mut t).unwrap();
    let want = reference::forward(m, n, r, &wide_u, &wide_a);
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = reference::forward(m, n, r, &abs(&wide_u), &abs(&wide_a));
    let tol = Tol::new(DType::of::<E>()).sum_len(r).magnitudes(&bounds).round_result();
    assert_close("lora_up.T", &t, &want, tol.cols(n));

    let mut group = c.benchmark_group(format!("lora_up/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(2 * (m * n * r) as u64));
    group.bench_function("forward", |bench| {
        bench.iter(|| forward(&cpu, dims, &u, &a, &mut t).unwrap());
    });
    if E::NAME == "f32" {
        let u = Tensor::from_vec(cast::<f32>(&wide_u), (m, r), &Device::Cpu).unwrap();
        let a = Tensor::from_vec(cast::<f32>(&wide_a), (r, n), &Device::Cpu).unwrap();
        group.bench_function("candle f32", |bench| bench.iter(|| u.matmul(&a).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, bench::<f32>, bench::<bf16>);
criterion_main!(benches);
