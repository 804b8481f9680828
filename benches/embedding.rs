//! embedding: timing, beside a copy of the output's size.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::embedding::{forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan};

/// The demo model's table, 2048 tokens.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let (tokens, vocab, hidden) = (2048, 49_152, 576);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let wide = rng.values(vocab * hidden, 1.0);
    let table = cast::<bf16>(&wide);
    let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocab) as u32).collect();
    let mut out = nan::<E>(tokens * hidden);
    forward(&cpu, &ids, &table, hidden, &mut out).unwrap();
    let want = reference::forward(&ids, &wide, hidden);
    assert_close("embedding.out", &out, &want, Tol::new(DType::of::<E>()).cols(hidden));

    let mut group = c.benchmark_group(format!("embedding/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    // Read: the rows in bf16. Written: out.
    let bytes = tokens * hidden * (2 + size_of::<E>());
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("forward", |b| {
        b.iter(|| forward(&cpu, &ids, &table, hidden, &mut out).unwrap());
    });
    let from = out.clone();
    group.throughput(Throughput::Bytes((2 * out.len() * size_of::<E>()) as u64));
    group.bench_function("copy_from_slice, one thread", |b| b.iter(|| out.copy_from_slice(&from)));
    group.finish();
}

/// 4096 tokens of a 4096 wide model on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::embedding::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (tokens, vocab, hidden) = (4096, 32_000, 4096);
    let mut rng = Rng::new(1);
    let wide = rng.values(vocab * hidden, 1.0);
    let ids: Vec<u32> = (0..tokens).map(|_| rng.below(vocab) as u32).collect();
    let (table, on_ids) = (gpu.upload(&cast::<bf16>(&wide)).unwrap(), gpu.upload(&ids).unwrap());
    let mut out = gpu.alloc::<bf16>(tokens * hidden).unwrap();
    let run = |out: &mut Buf<bf16>| {
        let out = &mut out.view_mut();
        cuda::forward(&gpu, on_ids.view(), table.view(), hidden, out).unwrap();
        gpu.synchronize().unwrap();
    };
    run(&mut out);
    let want = reference::forward(&ids, &wide, hidden);
    let tol = Tol::new(DType::Bf16).cols(hidden);
    assert_close("embedding.out", &gpu.download(out.view()).unwrap(), &want, tol);

    let mut group = c.benchmark_group(format!("embedding/{}", gpu.name()));
    group.throughput(Throughput::Bytes(2 * 2 * (tokens * hidden) as u64));
    group.bench_function("forward", |b| b.iter(|| run(&mut out)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
