//! The kernels of dropout: the CPU's bits.

use dayrun::ops::dropout::{Mask, backward, cuda, forward};
use dayrun::philox::Moment;
use half::bf16;

use crate::common::gpu;
use crate::common::{Rng, assert_same_bits, cast, devices, nan};

#[test]
fn kernels_equal_the_cpu() {
    gpu::run("cuda::dropout::kernels_equal_the_cpu", |gpu, bits| {
        let cpu = devices().next().unwrap();
        let mut rng = Rng::new(5);
        let mut sizes = vec![1, 7, 8, 9, 2047, 2048, 2049];
        sizes.extend((0..gpu::shapes()).map(|_| 1 + rng.below(10_000)));
        for n in sizes {
            let moment = Moment { seed: rng.below(1 << 40) as u64, step: 4, micro_batch: 2 };
            let mask = Mask::new(moment, rng.below(1000) as u32, 0.9 * rng.uniform());
            // Views that begin at odd places are moved element by element.
            let skip = rng.below(3);
            let x = cast::<bf16>(&rng.values(n + skip, 1.0));
            let before = cast::<bf16>(&rng.values(n + skip, 1.0));
            let on_x = gpu.upload(&x).unwrap();
            let mut out = gpu.upload(&before).unwrap();
            let mut dx = gpu.upload(&before).unwrap();
            let view = || on_x.view().slice(skip..skip + n);
            cuda::forward(gpu, mask, view(), &mut out.view_mut().slice(skip..skip + n)).unwrap();
            cuda::backward(gpu, mask, view(), &mut dx.view_mut().slice(skip..skip + n)).unwrap();
            let (mut want, mut want_dx) = (nan::<bf16>(n), before[skip..].to_vec());
            forward(cpu, mask, &x[skip..], &mut want).unwrap();
            backward(cpu, mask, &x[skip..], &mut want_dx).unwrap();
            let [out, dx] = [out, dx].map(|x| gpu.download(x.view()).unwrap());
            assert_same_bits("dropout_forward", &out[skip..], &want);
            assert_same_bits("dropout_backward", &dx[skip..], &want_dx);
            assert_same_bits("what lies before", &out[..skip], &before[..skip]);
            bits.add(&out);
            bits.add(&dx);
        }
    });
}

#[test]
fn no_elements_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::dropout::no_elements_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let mask = Mask::new(Moment::default(), 0, 0.5);
        let x = gpu.upload(&[bf16::ONE; 4]).unwrap();
        let mut out = gpu.upload(&[bf16::ONE; 4]).unwrap();
        let mut forward = |n: usize, m: usize| {
            let (x, out) = (x.view().slice(0..n), &mut out.view_mut().slice(0..m));
            cuda::forward(gpu, mask, x, out).map_err(|error| error.to_string())
        };
        assert_eq!(forward(0, 0), Ok(()));
        assert_eq!(forward(4, 3), Err("dropout: len of out is 3, expected 4".into()));
    });
}
