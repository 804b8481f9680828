//! swiglu: timing, beside a plain loop with the standard library's exp.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::swiglu::{backward, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, assert_close, cast, nan};

fn naive<E: Element>(gate: &[E], up: &[E], h: &mut [E]) {
    for i in 0..gate.len() {
        let g = gate[i].to_f32();
        let silu = E::from_f32(g / (1.0 + (-g).exp()));
        h[i] = E::from_f32(silu.to_f32() * up[i].to_f32());
    }
}

/// 1024 tokens of the demo model's inner width.
fn bench<E: Element + Into<f64>>(c: &mut Criterion) {
    let n = 1024 * 1536;
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_gate, wide_up) = (rng.values(n, 2.0), rng.values(n, 1.0));
    let (gate, up) = (cast::<E>(&wide_gate), cast::<E>(&wide_up));
    let dh = cast::<E>(&rng.values(n, 1.0));
    let mut h = nan::<E>(n);
    let want = reference::forward(&wide_gate, &wide_up);
    let tol = Tol::new(DType::of::<E>()).rounds(2).steps(common::tol::QUICK_EXP_STEPS + 4);
    naive(&gate, &up, &mut h);
    assert_close("naive h", &h, &want, tol);
    forward(&cpu, &gate, &up, &mut h).unwrap();
    assert_close("swiglu.h", &h, &want, tol);

    let mut group = c.benchmark_group(format!("swiglu/{}", E::NAME));
    group.sample_size(20).measurement_time(Duration::from_secs(2));
    // Forward reads two arrays and writes one; backward reads and writes three.
    let array = (n * size_of::<E>()) as u64;
    group.throughput(Throughput::Bytes(3 * array));
    group.bench_function("forward", |b| b.iter(|| forward(&cpu, &gate, &up, &mut h).unwrap()));
    group.bench_function("plain loop, one thread", |b| b.iter(|| naive(&gate, &up, &mut h)));
    group.throughput(Throughput::Bytes(6 * array));
    group.bench_function("backward", |b| {
        b.iter_batched_ref(
            || (gate.clone(), up.clone(), dh.clone()),
            |(gate, up, dh)| backward(&cpu, gate, up, dh).unwrap(),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// 4096 tokens of an 8B model's inner width on the GPU, if there is one; each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::swiglu::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let n = 4096 * 14_336;
    let mut rng = Rng::new(1);
    let (wide_gate, wide_up) = (rng.values(n, 2.0), rng.values(n, 1.0));
    let upload = |x: &[f64]| gpu.upload(&cast::<bf16>(x)).unwrap();
    let (mut gate, mut up, mut dh) = (upload(&wide_gate), upload(&wide_up), upload(&wide_up));
    let mut h = gpu.alloc::<bf16>(n).unwrap();
    cuda::forward(&gpu, gate.view(), up.view(), &mut h.view_mut()).unwrap();
    let want = reference::forward(&wide_gate, &wide_up);
    let tol = Tol::new(DType::Bf16).rounds(2).steps(7);
    assert_close("swiglu.h", &gpu.download(h.view()).unwrap(), &want, tol);

    let mut group = c.benchmark_group(format!("swiglu/{}", gpu.name()));
    group.throughput(Throughput::Bytes(3 * 2 * n as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            cuda::forward(&gpu, gate.view(), up.view(), &mut h.view_mut()).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.throughput(Throughput::Bytes(6 * 2 * n as u64));
    // In place: from the second time on it works on gradients, which takes as long.
    group.bench_function("backward", |b| {
        b.iter(|| {
            let (gate, up) = (&mut gate.view_mut(), &mut up.view_mut());
            cuda::backward(&gpu, gate, up, &mut dh.view_mut()).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, bench::<f32>, bench::<bf16>, cuda);
criterion_main!(benches);
