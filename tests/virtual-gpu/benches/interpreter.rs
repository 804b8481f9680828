//! What the PTX machine costs: thread-instructions a second for each kind of work, watched and not, and
//! whether the cost of one stays the same as grids grow. Criterion's "elements" are thread-instructions.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{Arg, Device};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use virtual_gpu::{Options, Watch};

const PTX: &str = include_str!("../tests/conformance/throughput.ptx");
const THREADS: u32 = 256;

/// A kernel with its buffers, for grids of up to `blocks`.
struct Work {
    device: Device,
    kernel: &'static str,
    args: Vec<Arg>,
}

impl Work {
    fn new(kernel: &'static str, blocks: u32, n: u32, watch: Watch) -> Work {
        let device = Device::with(PTX, Options { watch, ..Options::default() });
        let threads = (blocks * THREADS) as usize;
        let mut args = Vec::new();
        if kernel == "copy_loop" {
            args.push(device.buffer(&vec![1.0f32; threads * 4 * n as usize]).into());
            args.push(device.buffer(&vec![0.0f32; threads * 4 * n as usize]).into());
        } else {
            args.push(device.buffer(&vec![0u32; threads]).into());
        }
        args.push(n.into());
        Work { device, kernel, args }
    }

    /// Launches, and gives the number of thread-instructions (all lanes of a warp counted).
    fn run(&self, blocks: u32) -> u64 {
        32 * self.device.launch(self.kernel, blocks, THREADS, 0, &self.args).warp_instructions
    }
}

/// The first kernel's results against the same loop in Rust, before anything is timed.
fn check() {
    let work = Work::new("integer_loop", 3, 50, Watch::Fail);
    work.run(3);
    let Arg(address) = &work.args[0];
    let address = u64::from_le_bytes(address.as_slice().try_into().expect("8 bytes"));
    let got: Vec<u32> = work.device.read(address, 3 * THREADS as usize);
    for (i, got) in (0u32..).zip(got) {
        let (mut a, mut b) = (i, i ^ 0x9E37_79B9);
        for k in 0..50 {
            a = a.wrapping_mul(1_664_525).wrapping_add(b);
            b = b.rotate_left(7) ^ a;
            a = a.wrapping_add(k & b);
        }
        assert_eq!(got, a ^ b, "thread {i}");
    }
}

fn kinds(c: &mut Criterion) {
    check();
    let mut group = c.benchmark_group("thread_instructions");
    for kernel in ["integer_loop", "float_loop", "copy_loop", "shared_loop", "divergent_loop"] {
        for watch in [Watch::Off, Watch::Fail] {
            let work = Work::new(kernel, 32, 64, watch);
            group.throughput(Throughput::Elements(work.run(32)));
            group.bench_function(
                BenchmarkId::new(kernel, format!("watch_{watch:?}").to_lowercase()),
                |b| {
                    b.iter(|| black_box(work.run(32)));
                },
            );
        }
    }
    group.finish();
}

fn growing_grids(c: &mut Criterion) {
    let mut group = c.benchmark_group("growing_grids");
    group.sample_size(10);
    let work = Work::new("integer_loop", 4096, 64, Watch::Fail);
    for blocks in [1, 16, 256, 4096] {
        group.throughput(Throughput::Elements(work.run(blocks)));
        group.bench_function(BenchmarkId::from_parameter(blocks), |b| {
            b.iter(|| black_box(work.run(blocks)));
        });
    }
    group.finish();
}

criterion_group!(benches, kinds, growing_grids);
criterion_main!(benches);
