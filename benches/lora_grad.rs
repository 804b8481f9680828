//! lora_grad: timing for one adapter of rank 16, beside candle's f32 matmul.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::lora_grad::{Left, Part, down, reference, up};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan};

/// 1024 tokens of the demo model's inner width.
fn bench<E: GemmElement>(c: &mut Criterion) {
    let (m, n, r) = (1024, 1536, 16);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_u, wide_x) = (rng.values(m * r, 1.0), rng.values(m * n, 1.0));
    let (u, x) = (cast::<E>(&wide_u), cast::<E>(&wide_x));
    let (mut stack, mut product) = (nan::<E>(r * m), nan::<f32>(r * n));
    let mut grads = vec![0f32; r * n];
    let part = || std::iter::once(Part { column: 0, r, offset: 0 });
    let mut run = |up_too: bool, grads: &mut [f32]| {
        let left = Left { data: &u, ld: r, columns: r, stack: &mut stack, product: &mut product };
        if up_too {
            up(&cpu, m, n, left, &x, part(), grads).unwrap();
        } else {
            down(&cpu, m, n, left, &x, part(), grads).unwrap();
        }
    };
    run(false, &mut grads);
    let want = reference::down(m, n, r, &wide_u, &wide_x);
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = reference::down(m, n, r, &abs(&wide_u), &abs(&wide_x));
    let tol = Tol::new(DType::F32).sum_len(m + 1).magnitudes(&bounds).cols(n);
    assert_close("lora_grad.dA", &grads, &want, tol);

    let mut group = c.benchmark_group(format!("lora_grad/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(2 * (m * n * r) as u64));
    group.bench_function("down", |bench| bench.iter(|| run(false, &mut grads)));
    group.bench_function("up", |bench| bench.iter(|| run(true, &mut grads)));
    if E::NAME == "f32" {
        let u = Tensor::from_vec(cast::<f32>(&wide_u), (m, r), &Device::Cpu).unwrap();
        let x = Tensor::from_vec(cast::<f32>(&wide_x), (m, n), &Device::Cpu).unwrap();
        let u = u.t().unwrap();
        group.bench_function("candle f32", |bench| bench.iter(|| u.matmul(&x).unwrap()));
    }
    group.finish();
}

/// 4096 tokens of an 8B model, three adapters of rank 16 that share x, on the GPU, if there is one.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::lora_grad::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let (m, n, r, adapters) = (4096, 4096, 16, 3);
    let columns = adapters * r;
    let mut rng = Rng::new(1);
    let (wide_u, wide_x) = (rng.values(m * columns, 1.0), rng.values(m * n, 1.0));
    let (u, x) = (cast::<bf16>(&wide_u), cast::<bf16>(&wide_x));
    let (u, x) = (gpu.upload(&u).unwrap(), gpu.upload(&x).unwrap());
    let mut partial = gpu.alloc::<f32>(cuda::splits(m) * columns * n).unwrap();
    let mut grads = gpu.upload(&vec![0f32; columns * n]).unwrap();
    let parts: Vec<Part> =
        (0..adapters).map(|i| Part { column: i * r, r, offset: i * r * n }).collect();
    let mut run = |up_too: bool, grads: &mut Buf<f32>| {
        let partial = partial.view_mut();
        let left = cuda::Left { data: u.view(), ld: columns, columns, partial };
        let run = if up_too { cuda::up } else { cuda::down };
        run(&gpu, m, n, left, x.view(), &parts, &mut grads.view_mut()).unwrap();
        gpu.synchronize().unwrap();
    };
    run(false, &mut grads);
    let got = gpu.download(grads.view().slice(0..r * n)).unwrap();
    let first: Vec<f64> = wide_u.chunks_exact(columns).flat_map(|u| &u[..r]).copied().collect();
    let want = reference::down(m, n, r, &first, &wide_x);
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = reference::down(m, n, r, &abs(&first), &abs(&wide_x));
    let tol = Tol::new(DType::F32).sum_len(m + cuda::splits(m) + 1).magnitudes(&bounds);
    assert_close("lora_grad.dA", &got, &want, tol.cols(n));

    let mut group = c.benchmark_group(format!("lora_grad/{}", gpu.name()));
    group.throughput(Throughput::Elements(2 * (m * n * columns) as u64));
    group.bench_function("down", |bench| bench.iter(|| run(false, &mut grads)));
    group.bench_function("up", |bench| bench.iter(|| run(true, &mut grads)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
