//! head: timing of one chunk of loss positions, beside candle's f32 matmul.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::head::{backward, forward, reference};
use half::bf16;

use common::{DType, Rng, Tol, abs_product, assert_close, cast, nan};

/// 256 positions of the demo model's width and vocabulary.
fn bench<E: GemmElement>(c: &mut Criterion) {
    let (m, hidden, vocab, checked) = (256, 576, 49_152, 2);
    let cpu = Cpu::new(0);
    let mut rng = Rng::new(1);
    let (wide_h, wide_w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 0.05));
    let (h, w) = (cast::<E>(&wide_h), cast::<bf16>(&wide_w));
    let dlogits = cast::<E>(&rng.values(m * vocab, 1.0));
    let (mut logits, mut dh) = (nan::<f32>(m * vocab), nan::<E>(m * hidden));
    forward(&cpu, m, hidden, &h, &w, &mut logits).unwrap();
    let want = reference::forward(checked, hidden, vocab, &wide_h, &wide_w);
    let bounds = abs_product(checked, hidden, vocab, &wide_h, &wide_w);
    let tol = Tol::new(DType::F32).sum_len(hidden).magnitudes(&bounds).cols(vocab);
    assert_close("head.logits", &logits[..checked * vocab], &want, tol);

    let mut group = c.benchmark_group(format!("head/{}/{}", cpu.name(), E::NAME));
    group.sample_size(10).measurement_time(Duration::from_secs(2));
    group.throughput(Throughput::Elements(2 * (m * hidden * vocab) as u64));
    group.bench_function("forward", |bench| {
        bench.iter(|| forward(&cpu, m, hidden, &h, &w, &mut logits).unwrap());
    });
    group.bench_function("backward", |bench| {
        bench.iter(|| backward(&cpu, m, hidden, &dlogits, &w, &mut dh).unwrap());
    });
    if E::NAME == "f32" {
        let h = Tensor::from_vec(cast::<f32>(&wide_h), (m, hidden), &Device::Cpu).unwrap();
        let w = Tensor::from_vec(cast::<f32>(&wide_w), (vocab, hidden), &Device::Cpu).unwrap();
        let w = w.t().unwrap();
        group.bench_function("candle f32", |bench| bench.iter(|| h.matmul(&w).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, bench::<f32>, bench::<bf16>);
criterion_main!(benches);
