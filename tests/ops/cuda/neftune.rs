//! The kernel of neftune: the CPU's bits.

use dayrun::ops::neftune::{cuda, forward};
use dayrun::philox::Moment;
use half::bf16;

use crate::common::gpu;
use crate::common::{Rng, assert_same_bits, cast, devices};

#[test]
fn the_kernel_equals_the_cpu() {
    gpu::run("cuda::neftune::the_kernel_equals_the_cpu", |gpu, bits| {
        let cpu = devices().next().unwrap();
        let mut rng = Rng::new(6);
        for _ in 0..gpu::shapes() {
            let hidden = 1 + rng.below(300);
            let mut cu = vec![0u32];
            for _ in 0..1 + rng.below(5) {
                cu.push(cu[cu.len() - 1] + rng.below(20) as u32);
            }
            let tokens = cu[cu.len() - 1] as usize;
            // Rows behind the last document stay.
            let rows = tokens + rng.below(3);
            let moment = Moment { seed: rng.below(1 << 40) as u64, step: 9, micro_batch: 3 };
            let alpha = 10.0 * rng.uniform();
            let x = cast::<bf16>(&rng.values(rows * hidden, 1.0));
            let (on_cu, mut on_x) = (gpu.upload(&cu).unwrap(), gpu.upload(&x).unwrap());
            let (documents, to) = (cu.len() - 1, &mut on_x.view_mut());
            cuda::forward(gpu, alpha, moment, on_cu.view(), documents, rows, hidden, to).unwrap();
            let mut want = x;
            forward(cpu, alpha, moment, &cu, hidden, &mut want[..tokens * hidden]).unwrap();
            let got = gpu.download(on_x.view()).unwrap();
            assert_same_bits("neftune_forward", &got, &want);
            bits.add(&got);
        }
    });
}

#[test]
fn short_buffers_are_errors() {
    gpu::run("cuda::neftune::short_buffers_are_errors", |gpu, _| {
        let cu = gpu.upload(&[0u32, 2]).unwrap();
        let mut x = gpu.upload(&[bf16::ONE; 8]).unwrap();
        let mut run = |documents: usize, tokens: usize| {
            let (to, moment) = (&mut x.view_mut(), Moment::default());
            cuda::forward(gpu, 5.0, moment, cu.view(), documents, tokens, 4, to)
                .map_err(|error| error.to_string())
        };
        assert_eq!(run(1, 2), Ok(()));
        assert_eq!(run(1, 3), Err("neftune: len of x is 8, expected 12".into()));
        assert_eq!(run(2, 2), Err("neftune: len of cu_seqlens is 2, expected 3 or more".into()));
    });
}
