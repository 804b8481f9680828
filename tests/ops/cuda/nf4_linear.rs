//! The fused NF4 linear on the GPU against the f64 reference: forward, forward of few rows, dx.

use std::sync::Arc;

use dayrun::device::cuda::{Buf, Cuda};
use dayrun::ops::nf4_linear::cuda::{LowRank, Term, Weight, backward, forward};
use dayrun::ops::nf4_linear::reference;
use dayrun::quant::Nf4Matrix;
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{
    DType, Rng, Tol, abs_product, assert_close, assert_same_bits, cast, pitched, to_f64,
};
use crate::linear::matrix;

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

/// No adapter, adapters of a part of a step of k, and of several steps.
fn rank(rng: &mut Rng) -> usize {
    [0, 8, 16, 24, 32, 40, 64, 72][rng.below(8)]
}

fn check_forward(gpu: &Arc<Cuda>, rng: &mut Rng, m: usize, n_in: usize, bits: &mut Bits) {
    let n_out = 1 + rng.below(170);
    let (r, gap) = (rank(rng), 8 * rng.below(3));
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
        let (n_out, r, gap) = (8 * (1 + rng.below(20)), rank(rng), 8 * rng.below(3));
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
            let (m, n_in) = (17 + rows(&mut rng), width(&mut rng));
            check_forward(gpu, &mut rng, m, n_in, bits);
        }
    });
}

#[test]
fn few_rows_equal_the_reference() {
    gpu::run("cuda::nf4_linear::few_rows_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(4);
        for i in 0..gpu::shapes() {
            let m = 1 + rng.below(16);
            // Every other time enough steps of k for each warp to have one, or two.
            let n_in = if i % 2 == 0 { [256, 264, 576][rng.below(3)] } else { width(&mut rng) };
            check_forward(gpu, &mut rng, m, n_in, bits);
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

/// One-hot rows on the left read the weight out: every element exactly, with no bound that a wrong scale or a
/// swapped fragment could hide behind.
fn check_reads_out(gpu: &Arc<Cuda>, rng: &mut Rng, rows: usize, bits: &mut Bits) {
    let (n_in, n_out) = (width(rng), 8 * (1 + rng.below(20)));
    let w = matrix(rng, n_out, n_in, rows.is_multiple_of(2));
    let weight = Weight::upload(gpu, &w).unwrap();
    // Sums begin at +0, so -0 of a code 0 with a negative scale comes out as +0.
    let decoded: Vec<bf16> = w.to_f32().into_iter().map(|x| bf16::from_f32(x + 0.0)).collect();
    let one_hot = |n: usize, first: usize| {
        let mut x = vec![bf16::ZERO; rows * n];
        (0..rows).for_each(|i| x[i * n + (first + i) % n] = bf16::ONE);
        gpu.upload(&x).unwrap()
    };
    let first = rng.below(n_in);
    let mut y = gpu.alloc::<bf16>(rows * n_out).unwrap();
    forward(gpu, rows, one_hot(n_in, first).view(), &weight, None, None, &mut y.view_mut())
        .unwrap();
    let got = gpu.download(y.view()).unwrap();
    let at = |i: usize| decoded[i % n_out * n_in + (first + i / n_out) % n_in];
    let want: Vec<bf16> = (0..rows * n_out).map(at).collect();
    assert_same_bits(&format!("columns of {n_out} x {n_in}, {rows} rows"), &got, &want);
    bits.add(&got);

    let first = rng.below(n_out);
    let mut dx = gpu.alloc::<bf16>(rows * n_in).unwrap();
    let dy = one_hot(n_out, first);
    let term = Term { dy: dy.view(), w: &weight, lora: None };
    backward(gpu, rows, &[term], &mut dx.view_mut()).unwrap();
    let got = gpu.download(dx.view()).unwrap();
    let at = |i: usize| decoded[(first + i / n_in) % n_out * n_in + i % n_in];
    let want: Vec<bf16> = (0..rows * n_in).map(at).collect();
    assert_same_bits(&format!("rows of {n_out} x {n_in}, {rows} rows"), &got, &want);
    bits.add(&got);
}

#[test]
fn one_hot_rows_read_the_weight_exactly() {
    gpu::run("cuda::nf4_linear::one_hot_rows_read_the_weight_exactly", |gpu, bits| {
        let mut rng = Rng::new(7);
        for i in 0..gpu::shapes() {
            let rows = if i % 2 == 0 { 1 + rng.below(16) } else { rows(&mut rng) };
            check_reads_out(gpu, &mut rng, rows, bits);
        }
    });
}

#[test]
fn backward_with_wrong_lengths_and_results_at_odd_places_are_errors() {
    const TEST: &str =
        "cuda::nf4_linear::backward_with_wrong_lengths_and_results_at_odd_places_are_errors";
    gpu::run(TEST, |gpu, _| {
        let mut rng = Rng::new(8);
        let mut weight =
            |rows, cols| Weight::upload(gpu, &matrix(&mut rng, rows, cols, true)).unwrap();
        let (w, wide, odd) = (weight(16, 64), weight(16, 72), weight(12, 64));
        let ones = gpu.upload(&[bf16::ONE; 256]).unwrap();
        let mut out = gpu.alloc::<bf16>(160).unwrap();
        let one = |len: usize| ones.view().slice(0..len);
        let term = |w, len| Term { dy: one(len), w, lora: None };
        let mut run = |m: usize, terms: &[Term], begin: usize, len: usize| {
            let to = &mut out.view_mut().slice(begin..begin + len);
            backward(gpu, m, terms, to).map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("nf4_linear: {message}"));
        assert_eq!(run(2, &[term(&w, 32)], 0, 128), Ok(()));
        assert_eq!(run(2, &[term(&w, 32)], 2, 128), Ok(()));
        assert_eq!(run(0, &[term(&w, 0)], 0, 0), Ok(()));
        assert_eq!(run(2, &[term(&w, 32)], 0, 127), error("len of dx is 127, expected 128"));
        assert_eq!(run(2, &[term(&w, 31)], 0, 128), error("len of dy is 31, expected 32"));
        let terms = [term(&w, 32), term(&wide, 32)];
        assert_eq!(run(2, &terms, 0, 128), error("in_features is 72, expected 64"));
        let message = "out_features is 12, expected a multiple of 8";
        assert_eq!(run(2, &[term(&odd, 24)], 0, 128), error(message));
        let lora = LowRank { left: one(16), ld: 8, r: 8, right: one(64) };
        let message = "len of the adapter matrix is 64, expected 512";
        assert_eq!(run(2, &[Term { lora: Some(lora), ..term(&w, 32) }], 0, 128), error(message));
        assert!(run(2, &[term(&w, 32); 7], 0, 128).unwrap_err().contains("room for products"));
        let odd_place = run(2, &[term(&w, 32)], 1, 128).unwrap_err();
        assert!(odd_place.contains("address of the result"), "{odd_place}");
        let dy = Term { dy: ones.view().slice(4..36), w: &w, lora: None };
        let odd_place = run(2, &[dy], 0, 128).unwrap_err();
        assert!(odd_place.contains("address of x or dy"), "{odd_place}");
        let to = &mut out.view_mut().slice(1..33);
        assert!(forward(gpu, 2, one(128), &w, None, None, to).is_err(), "y at an odd place");
        // No rows are no excuse for an adapter that does not fit.
        let lora = LowRank { left: one(0), ld: 8, r: 8, right: one(64) };
        let none = &mut out.view_mut().slice(0..0);
        assert!(forward(gpu, 0, one(0), &w, Some(lora), None, none).is_err(), "adapter of 64");
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
