//! nf4_linear: forward and dx at the demo model's shapes.

use std::time::Instant;

use dayrun::device::cpu::Cpu;
use dayrun::ops::nf4_linear::{self, BackwardTerm, LowRank};
use dayrun::quant::{Absmax, Nf4Matrix};
use half::bf16;

fn main() {
    let cpu = Cpu::new(0);
    println!("{} {} threads", cpu.name(), cpu.threads());
    for (m, n, k) in
        [(1024, 576, 576), (1024, 192, 576), (1024, 1536, 576), (1024, 576, 1536), (32, 1536, 576)]
    {
        let w = matrix(n, k);
        let x: Vec<bf16> = (0..m * k).map(|i| bf16::from_f32((i % 17) as f32 - 8.0)).collect();
        let v: Vec<bf16> = (0..m * 16).map(|i| bf16::from_f32((i % 17) as f32 - 8.0)).collect();
        let b: Vec<bf16> = (0..n * 16).map(|i| bf16::from_f32((i % 17) as f32 - 8.0)).collect();
        let a: Vec<bf16> = (0..k * 16).map(|i| bf16::from_f32((i % 17) as f32 - 8.0)).collect();
        let mut y = vec![bf16::ZERO; m * n];
        let mut dx = vec![bf16::ZERO; m * k];
        let flops = 2.0 * (m * n * (k + 16)) as f64;
        let t = median(|| {
            let lora = Some(LowRank { left: &v, ld: 16, r: 16, right: &b });
            nf4_linear::forward(&cpu, m, &x, &w, lora, &mut y).unwrap()
        });
        let flops2 = 2.0 * (m * k * (n + 16)) as f64;
        let t2 = median(|| {
            let lora = Some(LowRank { left: &v, ld: 16, r: 16, right: &a });
            nf4_linear::backward(&cpu, m, &[BackwardTerm { dy: &y, w: &w, lora }], &mut dx).unwrap()
        });
        println!(
            "m {m} n {n} k {k}: forward {:.3} ms {:.0} GFLOP/s, dx {:.3} ms {:.0} GFLOP/s",
            t * 1e3,
            flops / t * 1e-9,
            t2 * 1e3,
            flops2 / t2 * 1e-9
        );
    }
}

fn median(mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..41)
        .map(|_| {
            let t = Instant::now();
            f();
            t.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[5]
}

fn matrix(rows: usize, cols: usize) -> Nf4Matrix {
    let codes: Vec<u8> = (0..rows * cols / 2).map(|i| (i * 31 % 256) as u8).collect();
    let blocks = rows * cols / 64;
    Nf4Matrix {
        rows,
        cols,
        codes: codes.into(),
        absmax: Absmax::Nested {
            codes: (0..blocks).map(|i| (i * 7 % 256) as u8).collect::<Vec<u8>>().into(),
            absmax2: vec![0.01; blocks.div_ceil(256)].into(),
            offset: 0.02,
            map: (0..256).map(|i| i as f32 / 128.0 - 1.0).collect::<Vec<f32>>().into(),
        },
    }
}
