//! attention: timing, in additions and multiplications of the scores that are not masked (4 a
//! pair and channel forward, 10 backward; what is recomputed is not counted).

#[cfg(feature = "cuda")]
#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, Element};
use dayrun::ops::attention::{self, Dims};
use half::bf16;

/// Values in -1..1 by a congruential generator.
fn input(len: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        <bf16 as Element>::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..len).map(|_| next()).collect()
}

/// `tokens` tokens in documents of `length`, the last one shorter.
fn documents(tokens: usize, length: usize) -> Vec<u32> {
    (0..=tokens.div_ceil(length)).map(|d| tokens.min(d * length) as u32).collect()
}

/// 2048 tokens as one document, without and with a window, and as the short ones that instruction data is made
/// of; heads as in SmolLM2-135M.
fn packed(c: &mut Criterion) {
    let cpu = Cpu::new(0);
    let no_window = Dims { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };
    let (dims, tokens) = (no_window, 2048);
    let (qw, kw) = (tokens * dims.q_width(), tokens * dims.kv_width());
    let (q, k, v, d_o) = (input(qw, 1), input(kw, 2), input(kw, 3), input(qw, 4));
    let (mut o, mut lse) = (q.clone(), vec![0.0; tokens * dims.heads]);
    let (mut delta, mut dq, mut dk, mut dv) = (lse.clone(), q.clone(), k.clone(), v.clone());
    let mut group = c.benchmark_group("attention");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for (name, length, window) in
        [("2048", 2048, None), ("2048 window 512", 2048, Some(512)), ("56", 56, None)]
    {
        let (dims, cu) = (Dims { window, ..no_window }, documents(tokens, length));
        let seen = |t: u32| u64::from(t + 1).min(window.unwrap_or(tokens) as u64);
        let pairs = cu.windows(2).flat_map(|d| 0..d[1] - d[0]).map(seen).sum::<u64>();
        let pairs = pairs * dims.q_width() as u64;
        group.throughput(Throughput::Elements(4 * pairs));
        group.bench_function(BenchmarkId::new("forward", name), |b| {
            b.iter(|| attention::forward(&cpu, &dims, &cu, &q, &k, &v, &mut o, &mut lse));
        });
        group.throughput(Throughput::Elements(10 * pairs));
        group.bench_function(BenchmarkId::new("backward", name), |b| {
            b.iter(|| {
                attention::backward(
                    &cpu, &dims, &cu, &q, &k, &v, &o, &lse, &d_o, &mut delta, &mut dq, &mut dk,
                    &mut dv,
                )
            });
        });
    }
    group.finish();
}

/// One new token for each of 32 rows that have 100.
fn decode(c: &mut Criterion) {
    let cpu = Cpu::new(0);
    let dims = Dims { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };
    let (rows, capacity) = (32, 128);
    let cu: Vec<u32> = (0..=rows as u32).collect();
    let total = vec![100; rows];
    let q = input(rows * dims.q_width(), 1);
    let k = input(rows * capacity * dims.kv_width(), 2);
    let v = input(rows * capacity * dims.kv_width(), 3);
    let mut o = q.clone();
    c.bench_function("attention/decode/32x100", |b| {
        b.iter(|| attention::decode(&cpu, &dims, &cu, &total, capacity, &q, &k, &v, &mut o));
    });
}

/// The heads of an 8B Llama on the GPU, if there is one: 8192 tokens as documents of 2048, and a new token for each
/// of 32 rows that have 2048. Each time waits for the device.
#[cfg(feature = "cuda")]
fn cuda(c: &mut Criterion) {
    use dayrun::device::cuda::Buf;
    use dayrun::ops::attention::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let dims =
        Dims { heads: 32, kv_heads: 8, head_dim: 128, scale: 128f32.sqrt().recip(), window: None };
    let (tokens, length) = (8192, 2048);
    let (qw, kw) = (tokens * dims.q_width(), tokens * dims.kv_width());
    let (q, k, v) = (input(qw, 1), input(kw, 2), input(kw, 3));
    let up = |values: &[bf16]| gpu.upload(values).unwrap();
    let (dq, dk, dv) = (up(&q), up(&k), up(&v));
    let (mut o, mut lse) = (up(&q), gpu.alloc(tokens * dims.heads).unwrap());
    let mut group = c.benchmark_group(format!("attention/{}", gpu.name()));
    // Short ones first: they can be compared with the reference.
    for length in [64, length] {
        let cu = documents(tokens, length);
        let pairs = (tokens / length * length * (length + 1) / 2 * dims.q_width()) as u64;
        let (count, cu_seqlens) = (cu.len() - 1, gpu.upload(&cu).unwrap());
        let mut run = |o: &mut Buf<bf16>| {
            let (o, lse) = (&mut o.view_mut(), &mut lse.view_mut());
            let (q, k, v, cu) = (dq.view(), dk.view(), dv.view(), cu_seqlens.view());
            cuda::forward(&gpu, &dims, cu, count, tokens, q, k, v, o, lse).unwrap();
            gpu.synchronize().unwrap();
        };
        run(&mut o);
        if length == 64 {
            check(&dims, length, [&q, &k, &v], &gpu.download(o.view()).unwrap());
        }
        group.throughput(Throughput::Elements(4 * pairs));
        group.bench_function(BenchmarkId::new("forward", length), |b| b.iter(|| run(&mut o)));
    }
    let (rows, capacity) = (32, 4096);
    let cu_seqlens = gpu.upload(&documents(rows, 1)).unwrap();
    let (total, cache) = (gpu.upload(&vec![2048u32; rows]).unwrap(), rows * capacity);
    let (k, v) = (input(cache * dims.kv_width(), 4), input(cache * dims.kv_width(), 5));
    let (k, v, q) = (up(&k), up(&v), dq.view().slice(0..rows * dims.q_width()));
    let mut o = o.view_mut().slice(0..rows * dims.q_width());
    let mut run = || {
        let (cu, total, k, v) = (cu_seqlens.view(), total.view(), k.view(), v.view());
        cuda::decode(&gpu, &dims, cu, rows, rows, total, capacity, q, k, v, &mut o).unwrap();
        gpu.synchronize().unwrap();
    };
    group.throughput(Throughput::Bytes((rows * 2048 * dims.kv_width() * 4) as u64));
    group.bench_function("decode/32x2048", |b| b.iter(&mut run));
    group.finish();
}

/// Backward of the same.
#[cfg(feature = "cuda")]
fn cuda_backward(c: &mut Criterion) {
    use common::attention::{Saved, assert_gradients};
    use dayrun::device::cuda::Buf;
    use dayrun::ops::attention::cuda;
    let Some(gpu) = common::gpu::any() else { return };
    let dims =
        Dims { heads: 32, kv_heads: 8, head_dim: 128, scale: 128f32.sqrt().recip(), window: None };
    let tokens = 8192;
    let (qw, kw) = (tokens * dims.q_width(), tokens * dims.kv_width());
    let inputs = [input(qw, 1), input(kw, 2), input(kw, 3), input(qw, 4)];
    let [q, k, v, d_o] = inputs.each_ref().map(|values| gpu.upload(values).unwrap());
    let alloc = |len| gpu.alloc::<bf16>(len).unwrap();
    let (mut o, mut gradients) = (alloc(qw), [alloc(qw), alloc(kw), alloc(kw)]);
    let stats = || gpu.alloc::<f32>(tokens * dims.heads).unwrap();
    let (mut lse, mut delta) = (stats(), stats());
    let mut group = c.benchmark_group(format!("attention/{}", gpu.name()));
    for length in [64, 2048] {
        let cu = documents(tokens, length);
        let pairs = (tokens / length * length * (length + 1) / 2 * dims.q_width()) as u64;
        let (count, cu_seqlens) = (cu.len() - 1, gpu.upload(&cu).unwrap());
        let (cu, q, k, v) = (cu_seqlens.view(), q.view(), k.view(), v.view());
        let (to, stats) = (&mut o.view_mut(), &mut lse.view_mut());
        cuda::forward(&gpu, &dims, cu, count, tokens, q, k, v, to, stats).unwrap();
        let (o, lse, d_o) = (to.as_view(), stats.as_view(), d_o.view());
        let mut run = |[dq, dk, dv]: &mut [Buf<bf16>; 3]| {
            let (delta, dq) = (&mut delta.view_mut(), &mut dq.view_mut());
            let (dk, dv) = (&mut dk.view_mut(), &mut dv.view_mut());
            cuda::backward(&gpu, &dims, cu, count, tokens, q, k, v, o, lse, d_o, delta, dq, dk, dv)
                .unwrap();
            gpu.synchronize().unwrap();
        };
        run(&mut gradients);
        if length == 64 {
            // The first two documents.
            let part = |values: &[bf16]| common::to_f64(&values[..values.len() / tokens * 128]);
            let [q, k, v, d_o] = inputs.each_ref().map(|values| part(values));
            let [dq, dk, dv] = gradients.each_ref().map(|buf| gpu.download(buf.view()).unwrap());
            let got = [&dq[..q.len()], &dk[..k.len()], &dv[..v.len()]];
            assert_gradients(&dims, &[0, 64, 128], [&q, &k, &v, &d_o], Saved::Forward, got);
        }
        group.throughput(Throughput::Elements(10 * pairs));
        group.bench_function(BenchmarkId::new("backward", length), |b| {
            b.iter(|| run(&mut gradients));
        });
    }
    group.finish();
}

/// The first two documents against the reference; the bound is derived in tests/ops/cuda/attention.rs. Inputs are
/// below 1, so scores are below scale·head_dim.
#[cfg(feature = "cuda")]
fn check(dims: &Dims, length: usize, [q, k, v]: [&[bf16]; 3], o: &[bf16]) {
    use common::{DType, Tol, assert_close, to_f64};
    let cu = documents(2 * length, length);
    let q = to_f64(&q[..2 * length * dims.q_width()]);
    let k = to_f64(&k[..2 * length * dims.kv_width()]);
    let v = to_f64(&v[..2 * length * dims.kv_width()]);
    let (want, _) = attention::reference::forward(dims, &cu, &q, &k, &v);
    let abs_v: Vec<f64> = v.iter().map(|v| v.abs()).collect();
    let (bounds, _) = attention::reference::forward(dims, &cu, &q, &k, &abs_v);
    let d = dims.head_dim;
    let score = (f64::from(dims.scale) * d as f64).ceil() as usize;
    let tol = Tol::new(DType::Bf16).rounds(1).round_result().steps(2 * score * (d + 6) + 21);
    let tol = tol.sum_len(2 * length).magnitudes(&bounds).cols(d);
    assert_close("attention_forward o", &o[..want.len()], &want, tol);
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: &mut Criterion) {}

#[cfg(not(feature = "cuda"))]
fn cuda_backward(_: &mut Criterion) {}

criterion_group!(benches, packed, decode, cuda, cuda_backward);
criterion_main!(benches);
