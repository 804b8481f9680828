//! The fused NF4 linear on the GPU against the f64 reference: forward, forward of few rows, dx.

use std::sync::Arc;

use dayrun::device::cuda::{Buf, Cuda};
use dayrun::ops::nf4_linear::cuda::{LowRank, Term, Weight, backward, forward};
use dayrun::ops::nf4_linear::reference;
use dayrun::quant::Nf4Matrix;
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, abs_product, assert_close, cast, pitched, to_f64};
use crate::nf4_linear::matrix;

/// The values that the kernel multiplies with: rounded once to bf16.
fn decoded(w: &Nf4Matrix) -> Vec<f64> {
    to_f64(&w.to_f32().into_iter().map(bf16::from_f32).collect::<Vec<_>>())
}

fn up(gpu: &Arc<Cuda>, values: &[f64]) -> Buf<bf16> {
    gpu.upload(&cast::<bf16>(values)).unwrap()
}

/// Sizes around a block's tile, and odd ones.
fn rows(rng: &mut Rng) -> usize {
    match rng.below(3) {
        0 => 1 + rng.below(16),
        1 => [17, 31, 63, 64, 65, 127, 128, 129][rng.below(8)],
        _ => 1 + rng.below(200),
    }
}

fn width(rng: &mut Rng) -> usize {
    [8, 24, 64, 72, 128, 136, 192, 320][rng.below(8)]
}

fn check_forward(gpu: &Arc<Cuda>, rng: &mut Rng, m: usize, bits: &mut Bits) {
    let (n_in, n_out) = (width(rng), 1 + rng.below(170));
    let (r, gap) = (8 * rng.below(5), 8 * rng.below(3));
    let nested = rng.below(2) == 0;
    let w = matrix(rng, n_out, n_in, nested);
    let (x, v, b) = (rng.values(m * n_in, 1.0), rng.values(m * r, 1.0), rng.values(n_out * r, 0.5));
    let bias = (rng.below(2) == 0).then(|| rng.values(n_out, 2.0));
    let wv = decoded(&w);
    let mut want = reference::forward(m, n_in, n_out, r, &x, &wv, &v, &b);
    let mut bounds = abs_product(m, n_in, n_out, &x, &wv);
    bounds.iter_mut().zip(abs_product(m, r, n_out, &v, &b)).for_each(|(a, b)| *a += b);
    for (i, (want, bound)) in want.iter_mut().zip(&mut bounds).enumerate() {
        let bias = bias.as_ref().map_or(0.0, |bias| bias[i % n_out]);
        *want += bias;
        *bound += bias.abs();
    }

    let weight = Weight::upload(gpu, &w).unwrap();
    let left = gpu.upload(&pitched::<bf16>(&v, r, r + gap)).unwrap();
    let (x, right) = (up(gpu, &x), up(gpu, &b));
    let bias = bias.map(|bias| up(gpu, &bias));
    let lora = LowRank { left: left.view(), ld: r + gap, r, right: right.view() };
    let mut y = gpu.alloc::<bf16>(m * n_out).unwrap();
    let (lora, bias) = ((r > 0).then_some(lora), bias.as_ref().map(Buf::view));
    forward(gpu, m, x.view(), &weight, lora, bias, &mut y.view_mut()).unwrap();
    let got = gpu.download(y.view()).unwrap();
    // The sum, the bias added to it, one rounding.
    let tol = Tol::new(DType::Bf16).steps(1).sum_len(n_in + r).magnitudes(&bounds).round_result();
    let name = format!("nf4_linear_forward {m} x {n_in} -> {n_out}, r {r}");
    assert_close(&name, &got, &want, tol.cols(n_out));
    bits.add(&got);
}

fn check_backward(gpu: &Arc<Cuda>, rng: &mut Rng, m: usize, bits: &mut Bits) {
    let (n_in, terms) = (width(rng), 1 + rng.below(3));
    let mut want = vec![0.0; m * n_in];
    let mut bounds = vec![0.0; m * n_in];
    let (mut buffers, mut sum_len) = (Vec::new(), 0);
    for _ in 0..terms {
        let (n_out, r, gap) = (8 * (1 + rng.below(20)), 8 * rng.below(4), 8 * rng.below(3));
        let nested = rng.below(2) == 0;
        let w = matrix(rng, n_out, n_in, nested);
        let (dy, u) = (rng.values(m * n_out, 1.0), rng.values(m * r, 1.0));
        let a = rng.values(r * n_in, 0.5);
        let wv = decoded(&w);
        reference::backward_add(m, n_in, n_out, r, &dy, &wv, &u, &a, &mut want);
        let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<_>>();
        let (adv, aw, au, aa) = (abs(&dy), abs(&wv), abs(&u), abs(&a));
        reference::backward_add(m, n_in, n_out, r, &adv, &aw, &au, &aa, &mut bounds);
        sum_len += n_out + r;
        let left = gpu.upload(&pitched::<bf16>(&u, r, r + gap)).unwrap();
        let weight = Weight::upload(gpu, &w).unwrap();
        buffers.push((up(gpu, &dy), weight, left, r, r + gap, up(gpu, &a)));
    }
    let terms: Vec<Term> = buffers
        .iter()
        .map(|(dy, w, left, r, ld, right)| {
            let lora = LowRank { left: left.view(), ld: *ld, r: *r, right: right.view() };
            Term { dy: dy.view(), w, lora: (*r > 0).then_some(lora) }
        })
        .collect();
    let mut dx = gpu.alloc::<bf16>(m * n_in).unwrap();
    backward(gpu, m, &terms, &mut dx.view_mut()).unwrap();
    let got = gpu.download(dx.view()).unwrap();
    let tol = Tol::new(DType::Bf16).sum_len(sum_len).magnitudes(&bounds).round_result();
    let name = format!("nf4_linear_backward {m} x {n_in}, {} terms", terms.len());
    assert_close(&name, &got, &want, tol.cols(n_in));
    bits.add(&got);
}

#[test]
fn forward_equals_the_reference() {
    gpu::run("cuda::nf4_linear::forward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(3);
        for _ in 0..gpu::shapes() {
            let m = 17 + rows(&mut rng);
            check_forward(gpu, &mut rng, m, bits);
        }
    });
}

#[test]
fn few_rows_equal_the_reference() {
    gpu::run("cuda::nf4_linear::few_rows_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(4);
        for _ in 0..gpu::shapes() {
            let m = 1 + rng.below(16);
            check_forward(gpu, &mut rng, m, bits);
        }
    });
}

#[test]
fn backward_equals_the_reference() {
    gpu::run("cuda::nf4_linear::backward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(5);
        for _ in 0..gpu::shapes() {
            let m = rows(&mut rng);
            check_backward(gpu, &mut rng, m, bits);
        }
    });
}

#[test]
fn no_rows_are_nothing_and_wrong_lengths_are_errors() {
    gpu::run("cuda::nf4_linear::no_rows_are_nothing_and_wrong_lengths_are_errors", |gpu, _| {
        let mut rng = Rng::new(6);
        let weight = Weight::upload(gpu, &matrix(&mut rng, 8, 64, true)).unwrap();
        let x = gpu.upload(&[bf16::ONE; 2 * 64]).unwrap();
        let mut y = gpu.alloc::<bf16>(2 * 8).unwrap();
        let v = gpu.upload(&[bf16::ONE; 2 * 16]).unwrap();
        let b = gpu.upload(&[bf16::ONE; 8 * 16]).unwrap();
        let mut run = |m: usize, x_len: usize, r: usize, ld: usize, y_len: usize| {
            let right = b.view().slice(0..8 * r);
            let lora = LowRank { left: v.view(), ld, r, right };
            let x = x.view().slice(0..x_len);
            forward(gpu, m, x, &weight, Some(lora), None, &mut y.view_mut().slice(0..y_len))
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("nf4_linear: {message}"));
        assert_eq!(run(2, 128, 16, 16, 16), Ok(()));
        assert_eq!(run(0, 0, 16, 16, 0), Ok(()));
        assert_eq!(run(2, 127, 16, 16, 16), error("len of x is 127, expected 128"));
        assert_eq!(run(2, 128, 16, 16, 15), error("len of y is 15, expected 16"));
        assert_eq!(run(2, 128, 12, 16, 16), error("rank is 12, expected a multiple of 8"));
        assert_eq!(run(2, 128, 16, 8, 16), error("pitch of V or U is 8, expected 16 or more"));
        assert_eq!(run(2, 128, 16, 24, 16), error("len of V or U is 32, expected 40 or more"));
        assert!(backward(gpu, 2, &[], &mut y.view_mut()).is_err(), "no terms");
    });
}
