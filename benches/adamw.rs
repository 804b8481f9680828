//! adamw: timing, beside a plain loop.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::Cpu;
use dayrun::ops::adamw::{Hyper, reference, step};

use common::{DType, Rng, Tol, assert_close, cast};

fn naive(h: &Hyper, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let bias1 = 1.0 - h.beta1.powf(h.step as f64);
    let bias2 = 1.0 - h.beta2.powf(h.step as f64);
    let (beta1, beta2) = (h.beta1 as f32, h.beta2 as f32);
    for i in 0..p.len() {
        p[i] *= (1.0 - h.lr * h.weight_decay) as f32;
        m[i] = beta1 * m[i] + (1.0 - beta1) * g[i];
        v[i] = beta2 * v[i] + (1.0 - beta2) * g[i] * g[i];
        p[i] -= (h.lr / bias1) as f32 * m[i] / (v[i].sqrt() / bias2.sqrt() as f32 + h.eps as f32);
    }
}

/// As many parameters as rank-16 adapters of the demo model have.
fn bench(c: &mut Criterion) {
    let n = 4_884_480;
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let hyper =
        Hyper { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1 };
    let (mut want, wide_grads) = (rng.values(n, 0.1), rng.values(n, 0.01));
    let (mut params, grads) = (cast::<f32>(&want), cast::<f32>(&wide_grads));
    let (mut m, mut v) = (vec![0f32; n], vec![0f32; n]);
    step(&cpu, &hyper, 1.0, &mut params, &grads, &mut m, &mut v).unwrap();
    reference::step(&hyper, 1.0, &mut want, &wide_grads, &mut vec![0.0; n], &mut vec![0.0; n]);
    // Normal values of deviation 0.1 stay below 1, and a first step is lr long.
    assert_close("adamw.params", &params, &want, Tol::new(DType::F32).steps(14).magnitude(1.0));

    let mut group = c.benchmark_group("adamw");
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    // Read: four arrays. Written: three.
    group.throughput(Throughput::Bytes(7 * 4 * n as u64));
    group.bench_function("step", |b| {
        b.iter(|| step(&cpu, &hyper, 1.0, &mut params, &grads, &mut m, &mut v).unwrap());
    });
    group.bench_function("plain loop, one thread", |b| {
        b.iter(|| naive(&hyper, &mut params, &grads, &mut m, &mut v));
    });
    group.finish();
}

/// As many parameters as rank-16 adapters of an 8B model have, on the GPU, if there is one; each time
/// waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::adamw::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let n = 41_943_040;
    let hyper =
        Hyper { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, step: 1 };
    let mut rng = Rng::new(1);
    let (mut want, wide_grads) = (rng.values(n, 0.1), rng.values(n, 0.01));
    let mut params = gpu.upload(&cast::<f32>(&want)).unwrap();
    let grads = gpu.upload(&cast::<f32>(&wide_grads)).unwrap();
    let squares = gpu.upload(&[1f64]).unwrap();
    let zero = || gpu.upload(&vec![0f32; n]).unwrap();
    let (mut m, mut v) = (zero(), zero());
    let run = |p: &mut Buf<f32>, m: &mut Buf<f32>, v: &mut Buf<f32>| {
        let (p, m, v) = (&mut p.view_mut(), &mut m.view_mut(), &mut v.view_mut());
        let (squares, grads) = (squares.view(), grads.view());
        cuda::step(&gpu, &hyper, f64::INFINITY, squares, p, grads, m, v).unwrap();
        gpu.synchronize().unwrap();
    };
    run(&mut params, &mut m, &mut v);
    reference::step(&hyper, 1.0, &mut want, &wide_grads, &mut vec![0.0; n], &mut vec![0.0; n]);
    let tol = Tol::new(DType::F32).steps(17).magnitude(1.0);
    assert_close("adamw.params", &gpu.download(params.view()).unwrap(), &want, tol);
    let mut group = c.benchmark_group(format!("adamw/{}", gpu.name()));
    // Read: four arrays. Written: three.
    group.throughput(Throughput::Bytes(7 * 4 * n as u64));
    group.bench_function("step", |b| b.iter(|| run(&mut params, &mut m, &mut v)));
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench, cuda);
criterion_main!(benches);
