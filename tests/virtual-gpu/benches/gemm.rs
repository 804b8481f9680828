//! A tensor-core GEMM of 256 × 1024 × 1024 on the virtual GPU, watched and not: cp.async, ldmatrix, mma.
//!
//! `cargo bench -p virtual-gpu --bench gemm` (`--profile dev` builds faster: dev is optimised, too).
//! Wanted: less than two seconds on two cores.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Duration;

use common::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use virtual_gpu::options::{Options, Watch};

const PTX: &str = include_str!("../tests/conformance/gemm.ptx");
const SIZES: [usize; 3] = [256, 1024, 1024];

fn gemm(criterion: &mut Criterion) {
    let [m, n, k] = SIZES;
    let ones = |count| vec![bf16::ONE.to_bits(); count];
    let mut group = criterion.benchmark_group("gemm_bf16_256x1024x1024");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    // Multiply-adds.
    group.throughput(Throughput::Elements((m * n * k) as u64));
    for (name, watch) in [("watched", Watch::Fail), ("unwatched", Watch::Off)] {
        let device = Device::with(PTX, Options { watch, ..Options::default() });
        let c = device.unwritten::<f32>(m * n);
        let (a, b) = (device.buffer(&ones(m * k)), device.buffer(&ones(n * k)));
        let sizes = SIZES.map(|size| (size as i32).into());
        let args = [&[a.into(), b.into(), c.into()], sizes.as_slice()].concat();
        let launch = || {
            device.launch("gemm_bf16", [n as u32 / 128, m as u32 / 128], 256, 49152, &args);
        };
        launch();
        assert_eq!(device.read::<f32>(c, m * n), vec![k as f32; m * n]);
        group.bench_function(name, |bencher| bencher.iter(launch));
    }
    group.finish();
}

criterion_group!(benches, gemm);
criterion_main!(benches);
