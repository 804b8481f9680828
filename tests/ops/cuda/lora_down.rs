//! The low-rank products on the GPU against the f64 reference: stacked adapters into columns of V and U.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::lora_down::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast};

const SCALE: f32 = 1.75;
const SENTINEL: bf16 = bf16::NEG_INFINITY;

/// What lies in columns `first .. first + r`; everything else must be as it was.
fn columns_of(all: &[bf16], ld: usize, first: usize, r: usize) -> Vec<bf16> {
    let inside = |at: usize| (first..first + r).contains(&(at % ld));
    for (at, x) in all.iter().enumerate() {
        assert!(inside(at) || *x == SENTINEL, "written beside the columns, at {at}");
    }
    all.iter().enumerate().filter(|&(at, _)| inside(at)).map(|(_, x)| *x).collect()
}

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, bits: &mut Bits) {
    let (m, n) = ([1, 5, 16, 33, 64, 100][rng.below(6)], 8 * (1 + rng.below(30)));
    let r = 16 * [1, 2, 3, 4, 6, 12][rng.below(6)];
    let first = 16 * rng.below(3);
    let ld = first + r + 16 * rng.below(2);
    let x = rng.values(m * n, 1.0);
    let (a, b) = (rng.values(r * n, 0.25), rng.values(n * r, 0.25));
    let up = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
    let (on_x, on_a, on_b) = (up(&x), up(&a), up(&b));
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let scale = f64::from(SCALE);

    let mut v = gpu.upload(&vec![SENTINEL; m * ld]).unwrap();
    let mut to = v.view_mut().slice(first..m * ld);
    cuda::forward(gpu, m, n, r, SCALE, on_x.view(), on_a.view(), &mut to, ld).unwrap();
    let got = columns_of(&gpu.download(v.view()).unwrap(), ld, first, r);
    let bounds = reference::forward(m, n, r, scale, &abs(&x), &abs(&a));
    let tol = Tol::new(DType::Bf16).steps(1).sum_len(n).round_result().cols(r);
    let want = reference::forward(m, n, r, scale, &x, &a);
    assert_close("lora_down V", &got, &want, tol.magnitudes(&bounds));
    bits.add(&got);

    let mut u = gpu.upload(&vec![SENTINEL; m * ld]).unwrap();
    let mut to = u.view_mut().slice(first..m * ld);
    cuda::backward(gpu, m, n, r, SCALE, on_x.view(), on_b.view(), &mut to, ld).unwrap();
    let got = columns_of(&gpu.download(u.view()).unwrap(), ld, first, r);
    let bounds = reference::backward(m, n, r, scale, &abs(&x), &abs(&b));
    let want = reference::backward(m, n, r, scale, &x, &b);
    assert_close("lora_down U", &got, &want, tol.magnitudes(&bounds));
    bits.add(&got);
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::lora_down::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(13);
        for _ in 0..gpu::shapes() {
            check(gpu, &mut rng, bits);
        }
    });
}

#[test]
fn no_rows_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::lora_down::no_rows_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let (x, a) =
            (gpu.upload(&[bf16::ONE; 16]).unwrap(), gpu.upload(&[bf16::ONE; 128]).unwrap());
        let mut v = gpu.alloc::<bf16>(32).unwrap();
        let mut run = |m: usize, r: usize, ld: usize| {
            let (x, a) = (x.view().slice(0..m.min(2) * 8), a.view().slice(0..8 * r));
            cuda::forward(gpu, m, 8, r, 1.0, x, a, &mut v.view_mut(), ld)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(message.to_string());
        assert_eq!(run(2, 16, 16), Ok(()));
        assert_eq!(run(0, 16, 16), Ok(()));
        assert_eq!(run(2, 0, 16), Ok(()));
        assert_eq!(run(3, 16, 16), error("lora_down::forward: len of x is 16, expected 24"));
        assert_eq!(run(2, 16, 8), error("gemm_bf16: pitch of c is 8, expected 16 or more"));
        assert_eq!(run(2, 16, 24), error("gemm_bf16: len of c is 32, expected 40 or more"));
    });
}
