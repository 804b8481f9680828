//! attention: timing, in additions and multiplications of the scores that are not masked (4 a
//! pair and channel forward, 10 backward; what is recomputed is not counted).

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

/// 2048 tokens as one document, and as the short ones that instruction data is made of; heads
/// as in SmolLM2-135M.
fn packed(c: &mut Criterion) {
    let cpu = Cpu::new(0);
    let dims = Dims { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125 };
    let tokens = 2048;
    let (qw, kw) = (tokens * dims.q_width(), tokens * dims.kv_width());
    let (q, k, v, d_o) = (input(qw, 1), input(kw, 2), input(kw, 3), input(qw, 4));
    let (mut o, mut lse) = (q.clone(), vec![0.0; tokens * dims.heads]);
    let (mut delta, mut dq, mut dk, mut dv) = (lse.clone(), q.clone(), k.clone(), v.clone());
    let mut group = c.benchmark_group("attention");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for length in [2048, 56] {
        let cu = documents(tokens, length);
        let pairs: u64 = (cu.windows(2).map(|d| u64::from(d[1] - d[0])))
            .map(|n| n * (n + 1) / 2 * dims.q_width() as u64)
            .sum();
        group.throughput(Throughput::Elements(4 * pairs));
        group.bench_function(BenchmarkId::new("forward", length), |b| {
            b.iter(|| attention::forward(&cpu, &dims, &cu, &q, &k, &v, &mut o, &mut lse));
        });
        group.throughput(Throughput::Elements(10 * pairs));
        group.bench_function(BenchmarkId::new("backward", length), |b| {
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
    let dims = Dims { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125 };
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

criterion_group!(benches, packed, decode);
criterion_main!(benches);
