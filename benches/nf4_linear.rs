//! nf4_linear: timing at the demo model's shapes, beside candle's f32 matmul of the weight decoded
//! beforehand, without adapter (no crate at hand multiplies NF4, and none computes in bf16).

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement, Level};
use dayrun::ops::nf4_linear::{BackwardTerm, LowRank, backward, forward, reference};
use dayrun::quant::{Nf4Matrix, double_quantise, quantise};
use half::bf16;

use common::{DType, Rng, Tol, abs_product, assert_close, cast, nan, to_f64};

const R: usize = 16;
/// Rows that are checked before timing.
const CHECKED: usize = 4;

struct Data {
    w: Nf4Matrix,
    x: Vec<f64>,
    dy: Vec<f64>,
    v: Vec<f64>,
    a: Vec<f64>,
    b: Vec<f64>,
}

fn data(m: usize, n: usize, k: usize) -> Data {
    let mut rng = Rng::new(1);
    let values: Vec<f32> = cast(&rng.values(n * k, 0.05));
    Data {
        w: double_quantise(quantise(n, k, &values).unwrap()),
        x: rng.values(m * k, 1.0),
        dy: rng.values(m * n, 1.0),
        v: rng.values(m * R, 1.0),
        a: rng.values(R * k, 0.05),
        b: rng.values(n * R, 0.05),
    }
}

fn check<E: GemmElement + Into<f64>>(d: &Data, y: &[E]) {
    let (n, k) = (d.w.rows, d.w.cols);
    let w = to_f64(&d.w.to_f32().into_iter().map(E::from_f32).collect::<Vec<E>>());
    let want = reference::forward(CHECKED, k, n, R, &d.x, &w, &d.v, &d.b);
    let mut bounds = abs_product(CHECKED, k, n, &d.x, &w);
    bounds.iter_mut().zip(abs_product(CHECKED, R, n, &d.v, &d.b)).for_each(|(a, b)| *a += b);
    let tol = Tol::new(DType::of::<E>()).sum_len(k + R).magnitudes(&bounds).round_result();
    assert_close("nf4_linear.y", &y[..CHECKED * n], &want, tol.cols(n));
}

fn bench<E: GemmElement + Into<f64>>(c: &mut Criterion) {
    let cpu = Cpu::with_level(Level::from_env().unwrap(), 0);
    let mut group = c.benchmark_group(format!("nf4_linear/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    for (m, n, k) in [(1024, 576, 576), (1024, 1536, 576), (1024, 576, 1536), (32, 1536, 576)] {
        let d = data(m, n, k);
        let (x, dy, v) = (cast::<E>(&d.x), cast::<E>(&d.dy), cast::<E>(&d.v));
        let (a, b) = (cast::<E>(&d.a), cast::<E>(&d.b));
        let (mut y, mut dx) = (nan::<E>(m * n), nan::<E>(m * k));
        let lora = LowRank { left: &v, ld: R, r: R, right: &b };
        forward(&cpu, m, &x, &d.w, Some(lora), None, &mut y).unwrap();
        check(&d, &y);
        let shape = format!("{m}x{n}x{k}");
        // Multiplications and additions.
        group.throughput(Throughput::Elements(2 * (m * n * (k + R)) as u64));
        group.bench_function(BenchmarkId::new("forward", &shape), |bench| {
            bench.iter(|| forward(&cpu, m, &x, &d.w, Some(lora), None, &mut y).unwrap());
        });
        group.throughput(Throughput::Elements(2 * (m * k * (n + R)) as u64));
        let lora = Some(LowRank { right: &a, ..lora });
        group.bench_function(BenchmarkId::new("backward", &shape), |bench| {
            let term = BackwardTerm { dy: &dy, w: &d.w, lora };
            bench.iter(|| backward(&cpu, m, &[term], &mut dx).unwrap());
        });
        if E::NAME == "f32" {
            let tensor = |values: Vec<f32>, shape| Tensor::from_vec(values, shape, &Device::Cpu);
            let x = tensor(cast(&d.x), (m, k)).unwrap();
            let w = tensor(d.w.to_f32(), (n, k)).unwrap().t().unwrap();
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            group.bench_function(BenchmarkId::new("candle f32, decoded before", &shape), |bench| {
                bench.iter(|| x.matmul(&w).unwrap());
            });
        }
    }
    group.finish();
}

/// 16 and 1024 rows of a 4096 x 4096 linear with an adapter of rank 16 on the GPU, if there is one.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::ops::nf4_linear::cuda::{LowRank, Term, Weight, backward, forward};
    use dayrun::quant::{double_quantise, quantise};
    let Some(gpu) = common::gpu::any() else { return };
    let (n, r) = (4096, 16);
    let mut rng = Rng::new(1);
    let values: Vec<f32> = (0..n * n).map(|_| rng.uniform() as f32 - 0.5).collect();
    let w = double_quantise(quantise(n, n, &values).unwrap());
    let weight = Weight::upload(&gpu, &w).unwrap();
    let wv = to_f64(&w.to_f32().into_iter().map(bf16::from_f32).collect::<Vec<_>>());
    let mut group = c.benchmark_group(format!("nf4_linear/{}", gpu.name()));
    for m in [16, 1024] {
        let bf16s = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
        let (x, v) = (rng.values(m * n, 1.0), rng.values(m * r, 1.0));
        let b = rng.values(n * r, 0.5);
        let (x_gpu, v_gpu, b_gpu) = (bf16s(&x), bf16s(&v), bf16s(&b));
        let lora = LowRank { left: v_gpu.view(), ld: r, r, right: b_gpu.view() };
        let mut y = gpu.alloc::<bf16>(m * n).unwrap();
        let tol = Tol::new(DType::Bf16).sum_len(n + r).round_result().cols(n);
        forward(&gpu, m, x_gpu.view(), &weight, Some(lora), None, &mut y.view_mut()).unwrap();
        let (x, v) = (&x[..CHECKED * n], &v[..CHECKED * r]);
        let want = reference::forward(CHECKED, n, n, r, x, &wv, v, &b);
        let mut bounds = abs_product(CHECKED, n, n, x, &wv);
        bounds.iter_mut().zip(abs_product(CHECKED, r, n, v, &b)).for_each(|(a, b)| *a += b);
        let got = gpu.download(y.view().slice(0..CHECKED * n)).unwrap();
        assert_close("nf4_linear.y", &got, &want, tol.magnitudes(&bounds));
        let term = Term { dy: x_gpu.view(), w: &weight, lora: Some(lora) };
        backward(&gpu, m, &[term], &mut y.view_mut()).unwrap();
        let (mut want, mut bounds) = (vec![0.0; CHECKED * n], vec![0.0; CHECKED * n]);
        reference::backward_add(CHECKED, n, n, r, x, &wv, v, &b, &mut want);
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (ax, aw, av, ab) = (abs(x), abs(&wv), abs(v), abs(&b));
        reference::backward_add(CHECKED, n, n, r, &ax, &aw, &av, &ab, &mut bounds);
        let got = gpu.download(y.view().slice(0..CHECKED * n)).unwrap();
        assert_close("nf4_linear.dx", &got, &want, tol.magnitudes(&bounds));
        group.throughput(Throughput::Elements((2 * m * n * (n + r)) as u64));
        group.bench_function(format!("forward, {m} rows"), |bench| {
            bench.iter(|| {
                let y = &mut y.view_mut();
                forward(&gpu, m, x_gpu.view(), &weight, Some(lora), None, y).unwrap();
                gpu.synchronize().unwrap();
            });
        });
        group.bench_function(format!("backward, {m} rows"), |bench| {
            bench.iter(|| {
                backward(&gpu, m, &[term], &mut y.view_mut()).unwrap();
                gpu.synchronize().unwrap();
            });
        });
    }
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, cuda, bench::<f32>, bench::<bf16>);
criterion_main!(benches);
