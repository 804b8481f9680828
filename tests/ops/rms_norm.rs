//! rms_norm against its f64 reference.

use dayrun::device::cpu::Element;
use dayrun::ops::rms_norm::{add, add_forward, backward, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, assert_close, assert_same_bits, cases, cast, devices, dot, finite_difference,
    nan, pairs, size, to_f64,
};

const EPS: f32 = 1e-5;

struct Case {
    x: Vec<f64>,
    w: Vec<f64>,
    dy: Vec<f64>,
    rng: Rng,
}

fn case(rows: usize, hidden: usize, seed: u64) -> Case {
    let mut rng = Rng::new(seed);
    let mut x = rng.values(rows * hidden, 1.0);
    // Rows of very different size, one of them all zero.
    for (row, x) in x.chunks_exact_mut(hidden).enumerate() {
        let scale = [1.0, 16.0, 0.125, 0.0][row % 4];
        x.iter_mut().for_each(|x| *x *= scale);
    }
    let w = rng.around_one(hidden);
    let dy = rng.values(rows * hidden, 1.0);
    Case { x, w, dy, rng }
}

/// rstd: the sum of squares and some eight f32 operations. y: that, and two roundings to E.
fn forward_tols<E: Element>(hidden: usize) -> (Tol<'static>, Tol<'static>) {
    let rstd = Tol::new(DType::F32).steps(8).sum_len(hidden);
    (Tol::new(DType::of::<E>()).rounds(2).steps(8).sum_len(hidden).cols(hidden), rstd)
}

fn forward_matches<E: Element + Into<f64>>(rows: usize, hidden: usize, seed: u64) {
    let case = case(rows, hidden, seed);
    let (want_y, want_rstd) = reference::forward(hidden, EPS.into(), &case.x, &case.w);
    let (x, w) = (cast::<E>(&case.x), cast::<bf16>(&case.w));
    let (tol_y, tol_rstd) = forward_tols::<E>(hidden);
    for pair in pairs() {
        let mut rstd = vec![];
        for cpu in [&pair.one, &pair.two] {
            rstd = nan(rows);
            forward(cpu, hidden, EPS, &x, &w, &mut nan::<E>(rows * hidden), &mut rstd).unwrap();
        }
        let y = pair.same_bits("rms_norm.y", |cpu| {
            let mut y = nan::<E>(rows * hidden);
            forward(cpu, hidden, EPS, &x, &w, &mut y, &mut nan(rows)).unwrap();
            y
        });
        assert_close("rms_norm.y", &y, &want_y, tol_y);
        assert_close("rms_norm.rstd", &rstd, &want_rstd, tol_rstd);
    }
}

/// The sum is rounded once, and then it is exactly the plain forward of it.
fn add_forward_matches<E: Element + Into<f64>>(rows: usize, hidden: usize, seed: u64) {
    let mut case = case(rows, hidden, seed);
    let residual = cast::<E>(&case.rng.values(rows * hidden, 1.0));
    let (x, w) = (cast::<E>(&case.x), cast::<bf16>(&case.w));
    let sum: Vec<E> =
        x.iter().zip(&residual).map(|(x, r)| E::from_f32(x.to_f32() + r.to_f32())).collect();
    for cpu in devices() {
        let (mut y, mut rstd, mut new) = (nan::<E>(rows * hidden), nan(rows), nan(rows * hidden));
        add_forward(cpu, hidden, EPS, &x, &residual, &mut new, &w, &mut y, &mut rstd).unwrap();
        let (mut want_y, mut want_rstd) = (nan::<E>(rows * hidden), nan(rows));
        forward(cpu, hidden, EPS, &sum, &w, &mut want_y, &mut want_rstd).unwrap();
        assert_same_bits("rms_norm.sum", &new, &sum);
        let mut alone = nan::<E>(rows * hidden);
        add(cpu, hidden, &x, &residual, &mut alone).unwrap();
        assert_same_bits("rms_norm.sum alone", &alone, &sum);
        assert_same_bits("rms_norm.y after add", &y, &want_y);
        assert_same_bits("rms_norm.rstd after add", &rstd, &want_rstd);
    }
}

fn backward_matches<E: Element + Into<f64>>(rows: usize, hidden: usize, seed: u64) {
    let mut case = case(rows, hidden, seed);
    let before = case.rng.values(rows * hidden, 1.0);
    let added = reference::backward(hidden, EPS.into(), &case.x, &case.w, &case.dy);
    let want: Vec<f64> = before.iter().zip(&added).map(|(b, a)| b + a).collect();
    let (_, rstd) = reference::forward(hidden, EPS.into(), &case.x, &case.w);
    // Magnitudes: |before| + rstd·(|w·dy| + |x̂|·mean|w·dy·x̂|).
    let mut bounds = before.iter().map(|b| b.abs()).collect::<Vec<_>>();
    for (t, &r) in rstd.iter().enumerate() {
        let row = t * hidden..(t + 1) * hidden;
        let (x, dy) = (&case.x[row.clone()], &case.dy[row.clone()]);
        let product = |j: usize| (case.w[j] * dy[j] * x[j] * r).abs();
        let mean = (0..hidden).map(product).sum::<f64>() / hidden as f64;
        for (j, bound) in bounds[row].iter_mut().enumerate() {
            *bound += r * ((case.w[j] * dy[j]).abs() + (x[j] * r).abs() * mean);
        }
    }
    let (x, w, dy) = (cast::<E>(&case.x), cast::<bf16>(&case.w), cast::<E>(&case.dy));
    // The sum over the row, rstd from its own sum (three factors of it), the stored dx.
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(40).sum_len(4 * hidden);
    for pair in pairs() {
        let mut rstd = nan(rows);
        forward(&pair.one, hidden, EPS, &x, &w, &mut nan::<E>(rows * hidden), &mut rstd).unwrap();
        let dx = pair.same_bits("rms_norm.dx", |cpu| {
            let mut dx = cast::<E>(&before);
            backward(cpu, hidden, &x, &w, &rstd, &dy, &mut dx).unwrap();
            dx
        });
        assert_close("rms_norm.dx", &dx, &want, tol.magnitudes(&bounds).cols(hidden));
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn forward_equals_reference(rows in size(40), hidden in size(700), seed: u64) {
        forward_matches::<f32>(rows, hidden, seed);
        forward_matches::<bf16>(rows, hidden, seed);
        add_forward_matches::<f32>(rows, hidden, seed);
        add_forward_matches::<bf16>(rows, hidden, seed);
    }

    #[test]
    fn backward_equals_reference(rows in size(40), hidden in size(700), seed: u64) {
        backward_matches::<f32>(rows, hidden, seed);
        backward_matches::<bf16>(rows, hidden, seed);
    }

    #[test]
    fn reference_backward_equals_finite_differences(hidden in 1usize..20, seed: u64) {
        let case = case(2, hidden, seed);
        // An eps that keeps the function smooth on the scale of the step for any row.
        let eps = 0.5;
        let loss = |x: &[f64]| dot(&reference::forward(hidden, eps, x, &case.w).0, &case.dy);
        let numeric = finite_difference(&case.x, loss);
        let exact = reference::backward(hidden, eps, &case.x, &case.w, &case.dy);
        let bound = case.dy.iter().map(|dy| dy.abs()).sum::<f64>() * 4.0;
        assert_close("rms_norm.dx", &numeric, &exact, Tol::finite_difference(bound).cols(hidden));
    }
}

#[test]
fn nan_stays_in_its_row() {
    for cpu in devices() {
        let mut x = vec![bf16::ONE; 3 * 40];
        x[45] = bf16::NAN;
        let (w, mut y, mut rstd) = (vec![bf16::ONE; 40], nan::<bf16>(120), nan::<f32>(3));
        forward(cpu, 40, EPS, &x, &w, &mut y, &mut rstd).unwrap();
        assert!(rstd[1].is_nan() && to_f64(&y[40..80]).iter().all(|y| y.is_nan()));
        assert!(!rstd[0].is_nan() && !rstd[2].is_nan());
        assert!(to_f64(&y[..40]).iter().chain(&to_f64(&y[80..])).all(|y| *y == 1.0));
    }
}

#[test]
fn short_buffers_are_errors() {
    let cpu = devices().next().unwrap();
    let (w, x) = ([bf16::ONE; 3], [0f32; 6]);
    let run = |hidden, x: &[f32], w: &[bf16], y: usize, rstd: usize| {
        let (mut y, mut rstd) = (vec![0f32; y], vec![0f32; rstd]);
        forward(cpu, hidden, EPS, x, w, &mut y, &mut rstd).map_err(|error| error.to_string())
    };
    let error = |message: &str| Err(format!("rms_norm: {message}"));
    assert_eq!(run(3, &x, &w, 6, 2), Ok(()));
    assert_eq!(run(3, &[], &w, 0, 0), Ok(()));
    assert_eq!(run(0, &x, &w, 6, 2), error("columns of a row is 0, expected 1 or more"));
    assert_eq!(run(3, &x[..5], &w, 6, 2), error("len of x is 5, expected a multiple of 3"));
    assert_eq!(run(3, &x, &w[..2], 6, 2), error("len of w is 2, expected 3"));
    assert_eq!(run(3, &x, &w, 5, 2), error("len of y is 5, expected 6"));
    assert_eq!(run(3, &x, &w, 6, 1), error("len of rstd is 1, expected 2"));
    let (mut y, mut rstd, mut short) = ([0f32; 6], [0f32; 2], [0f32; 5]);
    let mut sum = [0f32; 6];
    assert!(add_forward(cpu, 3, EPS, &x, &x[..5], &mut sum, &w, &mut y, &mut rstd).is_err());
    assert!(add_forward(cpu, 3, EPS, &x, &x, &mut short, &w, &mut y, &mut rstd).is_err());
    assert!(add(cpu, 3, &x, &x[..5], &mut sum).is_err());
    assert!(add(cpu, 3, &x, &x, &mut short).is_err());
    assert!(backward(cpu, 3, &x, &w, &rstd, &x[..5], &mut y).is_err());
    assert!(backward(cpu, 3, &x, &w, &rstd, &x, &mut short).is_err());
    assert!(backward(cpu, 3, &x, &w, &rstd[..1], &x, &mut y).is_err());
}
