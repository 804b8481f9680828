//! The kernels of rms_norm against the f64 reference.

use dayrun::device::cuda::Cuda;
use dayrun::ops::rms_norm::{cuda, reference};
use half::bf16;
use std::sync::Arc;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast, to_f64};

const EPS: f32 = 1e-5;
/// Rows that a block has, and short rows, of which lanes of a warp have each.
const LONG: [usize; 7] = [1, 7, 12, 255, 257, 576, 700];
const SHORT: [usize; 7] = [8, 16, 64, 80, 96, 128, 256];

struct Case {
    rows: usize,
    hidden: usize,
    x: Vec<f64>,
    w: Vec<f64>,
    dy: Vec<f64>,
    before: Vec<f64>,
}

fn long(rng: &mut Rng) -> Case {
    let (rows, hidden) = (1 + rng.below(9), LONG[rng.below(LONG.len())]);
    case(rng, rows, hidden)
}

/// Short rows of one block and of several.
fn short(rng: &mut Rng) -> Case {
    let (rows, hidden) = (1 + rng.below(70), SHORT[rng.below(SHORT.len())]);
    case(rng, rows, hidden)
}

/// Rows of very different size, one of them all zero.
fn case(rng: &mut Rng, rows: usize, hidden: usize) -> Case {
    let mut x = rng.values(rows * hidden, 1.0);
    for (row, x) in x.chunks_exact_mut(hidden).enumerate() {
        let scale = [1.0, 16.0, 0.125, 0.0][row % 4];
        x.iter_mut().for_each(|x| *x *= scale);
    }
    let w = rng.around_one(hidden);
    let (dy, before) = (rng.values(rows * hidden, 1.0), rng.values(rows * hidden, 1.0));
    Case { rows, hidden, x, w, dy, before }
}

fn check(gpu: &Arc<Cuda>, case: &Case, bits: &mut Bits) {
    let Case { rows, hidden, .. } = *case;
    let up = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
    let (x, w, dy) = (up(&case.x), up(&case.w), up(&case.dy));
    let (mut y, mut rstd) = (gpu.alloc::<bf16>(rows * hidden).unwrap(), gpu.alloc(rows).unwrap());
    cuda::forward(gpu, hidden, EPS, x.view(), w.view(), &mut y.view_mut(), &mut rstd.view_mut())
        .unwrap();

    let (want_y, want_rstd) = reference::forward(hidden, EPS.into(), &case.x, &case.w);
    let got = gpu.download(y.view()).unwrap();
    // rstd: the sum of squares and some eight f32 operations. y: that, and two roundings to bf16.
    let tol = Tol::new(DType::Bf16).rounds(2).steps(8).sum_len(hidden).cols(hidden);
    assert_close("rms_norm_forward y", &got, &want_y, tol);
    bits.add(&got);
    let got = gpu.download(rstd.view()).unwrap();
    assert_close(
        "rms_norm_forward rstd",
        &got,
        &want_rstd,
        Tol::new(DType::F32).steps(8).sum_len(hidden),
    );

    let mut dx = up(&case.before);
    cuda::backward(gpu, hidden, x.view(), w.view(), rstd.view(), dy.view(), &mut dx.view_mut())
        .unwrap();
    let got = gpu.download(dx.view()).unwrap();
    let added = reference::backward(hidden, EPS.into(), &case.x, &case.w, &case.dy);
    let want: Vec<f64> = case.before.iter().zip(&added).map(|(b, a)| b + a).collect();
    let bounds = backward_bounds(case, &want_rstd);
    // The sum over the row, rstd from its own sum (three factors of it), the stored dx.
    let tol = Tol::new(DType::Bf16).rounds(1).steps(40).sum_len(4 * hidden);
    assert_close("rms_norm_backward dx", &got, &want, tol.magnitudes(&bounds).cols(hidden));
    bits.add(&got);
}

/// |before| + rstd·(|w·dy| + |x̂|·mean|w·dy·x̂|).
fn backward_bounds(case: &Case, rstd: &[f64]) -> Vec<f64> {
    let Case { hidden, x, w, dy, before, .. } = case;
    let mut bounds: Vec<f64> = before.iter().map(|b| b.abs()).collect();
    for (t, &r) in rstd.iter().enumerate() {
        let at = |j: usize| t * hidden + j;
        let product = |j: usize| (w[j] * dy[at(j)] * x[at(j)] * r).abs();
        let mean = (0..*hidden).map(product).sum::<f64>() / *hidden as f64;
        for (j, w) in w.iter().enumerate() {
            bounds[at(j)] += r * ((w * dy[at(j)]).abs() + (x[at(j)] * r).abs() * mean);
        }
    }
    bounds
}

/// The sum is rounded once, and then it is exactly the plain forward of it.
fn check_add(gpu: &Arc<Cuda>, case: &Case, bits: &mut Bits) {
    let Case { rows, hidden, .. } = *case;
    let up = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
    let (x, residual, w) = (up(&case.x), up(&case.before), up(&case.w));
    let alloc = || gpu.alloc::<bf16>(rows * hidden).unwrap();
    let (mut out, mut y, mut rstd) = (alloc(), alloc(), gpu.alloc(rows).unwrap());
    let (x, residual) = (x.view(), residual.view());
    let w = w.view();
    let (to, r) = (&mut y.view_mut(), &mut rstd.view_mut());
    cuda::add_forward(gpu, hidden, EPS, x, residual, &mut out.view_mut(), w, to, r).unwrap();
    let sum: Vec<bf16> = std::iter::zip(&case.x, &case.before)
        .map(|(x, b)| bf16::from_f32(*x as f32 + *b as f32))
        .collect();
    assert!(gpu.download(out.view()).unwrap() == sum, "rms_norm_add_forward: the sum");
    let (mut want, mut want_rstd) = (alloc(), gpu.alloc(rows).unwrap());
    let (to, r) = (&mut want.view_mut(), &mut want_rstd.view_mut());
    cuda::forward(gpu, hidden, EPS, out.view(), w, to, r).unwrap();
    let got = gpu.download(y.view()).unwrap();
    assert!(got == gpu.download(want.view()).unwrap(), "rms_norm_add_forward: y");
    assert_eq!(gpu.download(rstd.view()).unwrap(), gpu.download(want_rstd.view()).unwrap());
    assert!(to_f64(&got).iter().all(|y| y.is_finite()));
    bits.add(&got);
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::rms_norm::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(5);
        for _ in 0..gpu::shapes() {
            for case in [long(&mut rng), short(&mut rng)] {
                check(gpu, &case, bits);
                check_add(gpu, &case, bits);
            }
        }
        // Heads, as q and k have them.
        for hidden in [64, 128] {
            check(gpu, &case(&mut rng, 37, hidden), bits);
        }
    });
}

#[test]
fn no_rows_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::rms_norm::no_rows_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let (w, x) = (gpu.upload(&[bf16::ONE; 3]).unwrap(), gpu.upload(&[bf16::ONE; 6]).unwrap());
        let (mut y, mut rstd) = (gpu.alloc::<bf16>(6).unwrap(), gpu.alloc::<f32>(2).unwrap());
        let mut run = |hidden: usize, lens: [usize; 3]| {
            let x = x.view().slice(0..lens[0]);
            let mut y = y.view_mut().slice(0..lens[1]);
            let mut rstd = rstd.view_mut().slice(0..lens[2]);
            cuda::forward(gpu, hidden, EPS, x, w.view(), &mut y, &mut rstd)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("rms_norm: {message}"));
        assert_eq!(run(3, [6, 6, 2]), Ok(()));
        assert_eq!(run(3, [0, 0, 0]), Ok(()));
        assert_eq!(run(0, [6, 6, 2]), error("columns of a row is 0, expected 1 or more"));
        assert_eq!(run(3, [5, 5, 2]), error("len of x is 5, expected a multiple of 3"));
        assert_eq!(run(2, [6, 6, 2]), error("len of w is 3, expected 2"));
        assert_eq!(run(3, [6, 5, 2]), error("len of y is 5, expected 6"));
        assert_eq!(run(3, [6, 6, 1]), error("len of rstd is 1, expected 2"));
        let wide = gpu.upload(&[bf16::ONE; 24]).unwrap();
        let (x, w) = (wide.view().slice(8..16), wide.view().slice(1..9));
        let (y, rstd) = (&mut gpu.alloc(8).unwrap(), &mut rstd.view_mut().slice(0..1));
        let odd = cuda::forward(gpu, 8, EPS, x, w, &mut y.view_mut(), rstd).unwrap_err();
        let odd = odd.to_string();
        assert!(odd.contains("address of a short row") && odd.contains("multiple of 16"), "{odd}");
    });
}
