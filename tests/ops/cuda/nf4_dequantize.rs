//! The NF4 decode on the GPU: bit for bit the one f32 product of the format, rounded once.

use dayrun::ops::nf4_dequantize::{cuda, reference};
use half::bf16;

use crate::common::gpu;
use crate::common::{Rng, assert_same_bits};
use crate::linear::matrix;

#[test]
fn every_element_is_the_rounded_product() {
    gpu::run("cuda::nf4_dequantize::every_element_is_the_rounded_product", |gpu, bits| {
        let mut rng = Rng::new(11);
        for i in 0..gpu::shapes() {
            // Whole blocks, and blocks that straddle rows.
            let (rows, cols) = (1 + rng.below(70), [8, 24, 64, 72, 128, 200, 576][rng.below(7)]);
            let gap = 8 * rng.below(4);
            let w = matrix(&mut rng, rows, cols, i % 2 == 0);
            let weight = cuda::Weight::upload(gpu, &w).unwrap();
            let mark = bf16::from_f32(-77.0);
            let mut out = gpu.upload(&vec![mark; rows * (cols + gap)]).unwrap();
            cuda::forward(gpu, &weight, &mut out.view_mut(), cols + gap).unwrap();
            let got = gpu.download(out.view()).unwrap();
            let mut want = vec![mark; rows * (cols + gap)];
            for (want, row) in
                want.chunks_mut(cols + gap).zip(reference::forward(&w).chunks_exact(cols))
            {
                // f64 holds the f32 product exactly: this rounds once, from there.
                want.iter_mut().zip(row).for_each(|(want, x)| *want = bf16::from_f32(*x as f32));
            }
            assert_same_bits(&format!("nf4_dequantize {rows} x {cols} + {gap}"), &got, &want);
            bits.add(&got);
        }
    });
}

#[test]
fn weights_of_wrong_shapes_are_errors() {
    gpu::run("cuda::nf4_dequantize::weights_of_wrong_shapes_are_errors", |gpu, _| {
        let mut rng = Rng::new(1);
        let message = |w: &dayrun::quant::Nf4Matrix| match cuda::Weight::upload(gpu, w) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let good = matrix(&mut rng, 4, 64, true);
        assert_eq!(message(&good), "");
        let odd = matrix(&mut rng, 4, 20, true);
        let want = "nf4_dequantize: in_features of a weight is 20, expected a multiple of 8";
        assert_eq!(message(&odd), want);
        let mut short = good.clone();
        short.codes = vec![0u8; 100].into();
        assert_eq!(message(&short), "nf4_dequantize: bytes of codes is 100, expected 128");
        let mut short = matrix(&mut rng, 4, 64, false);
        short.absmax = dayrun::quant::Absmax::Plain(vec![1.0; 3].into());
        assert_eq!(message(&short), "nf4_dequantize: number of scales is 3, expected 4");
        let weight = cuda::Weight::upload(gpu, &good).unwrap();
        assert_eq!((weight.rows(), weight.cols()), (4, 64));
        assert_eq!(weight.bytes(), cuda::Weight::bytes_of(&good));
        let mut out = gpu.alloc::<bf16>(4 * 72 - 9).unwrap();
        assert!(cuda::forward(gpu, &weight, &mut out.view_mut(), 72).is_err(), "too short");
        assert!(cuda::forward(gpu, &weight, &mut out.view_mut(), 56).is_err(), "pitch below a row");
        assert!(cuda::forward(gpu, &weight, &mut out.view_mut(), 68).is_err(), "pitch of 4 mod 8");
        let nothing = matrix(&mut rng, 0, 64, false);
        let nothing = cuda::Weight::upload(gpu, &nothing).unwrap();
        cuda::forward(gpu, &nothing, &mut out.view_mut(), 64).unwrap();
    });
}
