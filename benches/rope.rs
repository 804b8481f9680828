//! rope: timing, beside a plain loop that computes its angles.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::rope::{Tables, forward, reference, velocities};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast};

const THETA: f64 = 10_000.0;

fn naive<E: Element>(positions: &[u32], cols: usize, head_dim: usize, x: &mut [E]) {
    let half = head_dim / 2;
    for (row, &position) in x.chunks_exact_mut(cols).zip(positions) {
        for i in 0..half {
            let frequency = (THETA as f32).powf(-2.0 * i as f32 / head_dim as f32);
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            for head in row.chunks_exact_mut(head_dim) {
                let (a, b) = (head[i].to_f32(), head[i + half].to_f32());
                head[i] = E::from_f32(a * cos - b * sin);
                head[i + half] = E::from_f32(b * cos + a * sin);
            }
        }
    }
}

/// 1024 tokens, heads as in the demo model.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let (tokens, heads, kv_heads, head_dim) = (1024, 9, 3, 64);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let tables = Tables::new(head_dim, &velocities(head_dim, THETA), 2048);
    let positions: Vec<u32> = (0..tokens).collect();
    let wide = rng.values(positions.len() * heads * head_dim, 1.0);
    let mut q = cast::<E>(&wide);
    let mut k = cast::<E>(&rng.values(positions.len() * kv_heads * head_dim, 1.0));
    forward(&cpu, &tables, &positions, heads, kv_heads, head_dim, &mut q, &mut k).unwrap();
    let want = reference::rotate(THETA, &positions, head_dim, 1.0, &wide);
    // A pair's two products are at most √2 times its length, which is below 8 here.
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(3).magnitude(8.0).cols(head_dim);
    assert_close("rope.q", &q, &want, tol);

    let mut group = c.benchmark_group(format!("rope/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    // Read and written: q and k.
    group.throughput(Throughput::Bytes((2 * (q.len() + k.len()) * size_of::<E>()) as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            forward(&cpu, &tables, &positions, heads, kv_heads, head_dim, &mut q, &mut k).unwrap();
        });
    });
    group.bench_function("plain loop, one thread", |b| {
        b.iter(|| {
            naive(&positions, heads * head_dim, head_dim, &mut q);
            naive(&positions, kv_heads * head_dim, head_dim, &mut k);
        });
    });
    group.finish();
}

/// 4096 tokens with the heads of an 8B model on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::rope::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (tokens, heads, kv_heads, head_dim) = (4096, 32, 8, 128);
    let mut rng = Rng::new(1);
    let ids: Vec<u32> = (0..tokens).collect();
    let tables = Tables::new(head_dim, &velocities(head_dim, THETA), ids.len());
    let tables = cuda::Tables::new(&gpu, &tables).unwrap();
    let wide = rng.values(ids.len() * heads * head_dim, 1.0);
    let mut q = gpu.upload(&cast::<bf16>(&wide)).unwrap();
    let mut k = gpu.upload(&vec![bf16::ONE; ids.len() * kv_heads * head_dim]).unwrap();
    let positions = gpu.upload(&ids).unwrap();
    let run = |q: &mut Buf<bf16>, k: &mut Buf<bf16>| {
        let (q, k) = (&mut q.view_mut(), &mut k.view_mut());
        cuda::forward(&gpu, &tables, positions.view(), heads, kv_heads, head_dim, q, k).unwrap();
        gpu.synchronize().unwrap();
    };
    run(&mut q, &mut k);
    let want = reference::rotate(THETA, &ids, head_dim, 1.0, &wide);
    let tol = Tol::new(DType::Bf16).rounds(1).steps(3).magnitude(8.0).cols(head_dim);
    assert_close("rope.q", &gpu.download(q.view()).unwrap(), &want, tol);
    let mut group = c.benchmark_group(format!("rope/{}", gpu.name()));
    group.throughput(Throughput::Bytes((4 * ids.len() * (heads + kv_heads) * head_dim) as u64));
    group.bench_function("forward", |b| b.iter(|| run(&mut q, &mut k)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
