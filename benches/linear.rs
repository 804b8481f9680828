//! linear: timing at the demo model's shapes, weights in NF4, bf16 and f32, beside candle's f32 matmul of the
//! same weight, without adapter (no crate at hand multiplies NF4, and none computes in bf16).

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement, Level};
use dayrun::ops::linear::{BackwardTerm, LowRank, Rows, Weight, backward, forward, reference};
use dayrun::quant::{Nf4Matrix, double_quantise, quantise};
use half::bf16;

use common::{DType, Rng, Tol, abs_product, assert_close, cast, nan, to_f64};

const R: usize = 16;
/// Rows that are checked before timing.
const CHECKED: usize = 4;

struct Data {
    n: usize,
    k: usize,
    nf4: Nf4Matrix,
    bf16: Vec<bf16>,
    f32: Vec<f32>,
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
        n,
        k,
        nf4: double_quantise(quantise(n, k, &values).unwrap()),
        bf16: values.iter().map(|&x| bf16::from_f32(x)).collect(),
        f32: values,
        x: rng.values(m * k, 1.0),
        dy: rng.values(m * n, 1.0),
        v: rng.values(m * R, 1.0),
        a: rng.values(R * k, 0.05),
        b: rng.values(n * R, 0.05),
    }
}

impl Data {
    /// The weight in each way of holding it.
    fn weights(&self) -> [(&'static str, Weight<'_>); 3] {
        let &Data { n: rows, k: cols, .. } = self;
        [
            ("nf4", Weight::Nf4(&self.nf4)),
            ("bf16", Weight::Bf16(Rows { rows, cols, data: &self.bf16 })),
            ("f32", Weight::F32(Rows { rows, cols, data: &self.f32 })),
        ]
    }
}

fn check<E: GemmElement + Into<f64>>(d: &Data, w: Weight<'_>, y: &[E]) {
    let (n, k) = w.shape();
    let values: Vec<f32> = match w {
        Weight::Nf4(w) => w.to_f32(),
        Weight::Bf16(w) => w.data.iter().map(|x| x.to_f32()).collect(),
        Weight::F32(w) => w.data.to_vec(),
    };
    let w = to_f64(&values.into_iter().map(E::from_f32).collect::<Vec<E>>());
    let want = reference::forward(CHECKED, k, n, R, &d.x, &w, &d.v, &d.b);
    let mut bounds = abs_product(CHECKED, k, n, &d.x, &w);
    bounds.iter_mut().zip(abs_product(CHECKED, R, n, &d.v, &d.b)).for_each(|(a, b)| *a += b);
    let tol = Tol::new(DType::of::<E>()).sum_len(k + R).magnitudes(&bounds).round_result();
    assert_close("linear.y", &y[..CHECKED * n], &want, tol.cols(n));
}

fn bench<E: GemmElement + Into<f64>>(c: &mut Criterion) {
    let cpu = Cpu::with_level(Level::from_env().unwrap(), 0);
    let mut group = c.benchmark_group(format!("linear/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(1));
    for (m, n, k) in [(1024, 576, 576), (1024, 1536, 576), (1024, 576, 1536), (32, 1536, 576)] {
        let d = data(m, n, k);
        let (x, dy, v) = (cast::<E>(&d.x), cast::<E>(&d.dy), cast::<E>(&d.v));
        let (a, b) = (cast::<E>(&d.a), cast::<E>(&d.b));
        let (mut y, mut dx) = (nan::<E>(m * n), nan::<E>(m * k));
        let shape = format!("{m}x{n}x{k}");
        // A base in f32 is for activations in f32.
        let held = d.weights().into_iter().filter(|(held, _)| *held != "f32" || E::NAME == "f32");
        for (held, w) in held {
            let lora = LowRank { left: &v, ld: R, r: R, right: &b };
            forward(&cpu, m, &x, w, Some(lora), None, &mut y).unwrap();
            check(&d, w, &y);
            // Multiplications and additions.
            group.throughput(Throughput::Elements(2 * (m * n * (k + R)) as u64));
            group.bench_function(BenchmarkId::new(format!("forward {held}"), &shape), |bench| {
                bench.iter(|| forward(&cpu, m, &x, w, Some(lora), None, &mut y).unwrap());
            });
            group.throughput(Throughput::Elements(2 * (m * k * (n + R)) as u64));
            let lora = Some(LowRank { right: &a, ..lora });
            group.bench_function(BenchmarkId::new(format!("backward {held}"), &shape), |bench| {
                let term = BackwardTerm { dy: &dy, w, lora };
                bench.iter(|| backward(&cpu, m, &[term], &mut dx).unwrap());
            });
        }
        if E::NAME == "f32" {
            let tensor = |values: Vec<f32>, shape| Tensor::from_vec(values, shape, &Device::Cpu);
            let x = tensor(cast(&d.x), (m, k)).unwrap();
            let w = tensor(d.f32.clone(), (n, k)).unwrap().t().unwrap();
            group.throughput(Throughput::Elements(2 * (m * n * k) as u64));
            group.bench_function(BenchmarkId::new("candle f32", &shape), |bench| {
                bench.iter(|| x.matmul(&w).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench::<f32>, bench::<bf16>);
criterion_main!(benches);
