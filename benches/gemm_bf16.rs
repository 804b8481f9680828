//! gemm_bf16: timing on a GPU.

#[path = "../tests/common/mod.rs"]
mod common;

use criterion::{Criterion, criterion_group, criterion_main};

/// A linear of an 8B model at 4096 tokens with its adapter as a second product, and its input gradient.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use common::{DType, Rng, Tol, assert_close, cast, to_f64};
    use criterion::Throughput;
    use dayrun::ops::gemm_bf16::{cuda, reference};
    use half::bf16;

    let Some(gpu) = common::gpu::any() else { return };
    let (m, n, k, r, checked) = (4096, 4096, 4096, 16, 4);
    let mut rng = Rng::new(1);
    let mut values = |len: usize, scale: f64| cast::<bf16>(&rng.values(len, scale));
    let (x, v) = (values(m * k, 1.0), values(m * r, 1.0));
    let (w, b) = (values(n * k, 0.02), values(n * r, 0.02));
    let [on_x, on_v, on_w, on_b] = [&x, &v, &w, &b].map(|x| gpu.upload(x).unwrap());
    let base = cuda::Segment { a: on_x.view(), lda: k, b: on_w.view(), ldb: k, k };
    let adapter = cuda::Segment { a: on_v.view(), lda: r, b: on_b.view(), ldb: r, k: r };
    let mut y = gpu.alloc::<bf16>(m * n).unwrap();
    cuda::nt(&gpu, m, n, 1.0, &[base, adapter], None, &mut y.view_mut(), n).unwrap();
    // The first rows only: the whole product in f64 takes minutes.
    let (x, v) = (to_f64(&x[..checked * k]), to_f64(&v[..checked * r]));
    let (w, b) = (to_f64(&w), to_f64(&b));
    let product = |x: &[f64], w: &[f64], v: &[f64], b: &[f64]| {
        let base = reference::Segment { a: x, b: w, k };
        reference::nt(checked, n, 1.0, &[base, reference::Segment { a: v, b, k: r }])
    };
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = product(&abs(&x), &abs(&w), &abs(&v), &abs(&b));
    let tol = Tol::new(DType::Bf16).sum_len(k + r).magnitudes(&bounds).round_result().cols(n);
    let got = gpu.download(y.view().slice(0..checked * n)).unwrap();
    assert_close("gemm_bf16.y", &got, &product(&x, &w, &v, &b), tol);

    let mut group = c.benchmark_group(format!("gemm_bf16/{}", gpu.name()));
    group.throughput(Throughput::Elements(2 * (m * n * (k + r)) as u64));
    group.bench_function("nt", |bench| {
        bench.iter(|| {
            cuda::nt(&gpu, m, n, 1.0, &[base, adapter], None, &mut y.view_mut(), n).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    // W [n, k] and, in V's place, U·A with A [r, k]: both as they are stored.
    let adapter = cuda::Segment { a: on_v.view(), lda: r, b: on_b.view(), ldb: k, k: r };
    let base = cuda::Segment { lda: n, k: n, ..base };
    group.bench_function("nn", |bench| {
        bench.iter(|| {
            cuda::nn(&gpu, m, k, 1.0, &[base, adapter], &mut y.view_mut(), k).unwrap();
            gpu.synchronize().unwrap();
        });
    });
    group.finish();
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

criterion_group!(benches, cuda);
criterion_main!(benches);
