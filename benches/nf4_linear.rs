//! nf4_linear: timing on a GPU.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};

/// Rows that are checked before timing.
#[cfg(feature = "cuda")]
const CHECKED: usize = 4;

/// 16 and 1024 rows of a 4096 x 4096 linear with an adapter of rank 16 on the GPU, if there is one.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use common::{DType, Rng, Tol, abs_product, assert_close, cast, to_f64};
    use criterion::Throughput;
    use dayrun::ops::nf4_linear::cuda::{LowRank, Term, Weight, backward, forward};
    use dayrun::ops::nf4_linear::reference;
    use dayrun::quant::{double_quantise, quantise};
    use half::bf16;

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

criterion_group!(benches, cuda);
criterion_main!(benches);
