//! The kernels of reduce against the f64 reference.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::reduce::{cuda, reference};

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, cast};

/// Around the sizes at which another block starts to work.
const SIZES: [usize; 8] = [1, 255, 256, 257, 4095, 4096, 4097, 8193];

/// Σ x², Σ x, and the index of the first that is not finite.
fn reduce(gpu: &Arc<Cuda>, x: &[f32]) -> (f64, f64, u32) {
    let x = gpu.upload(x).unwrap();
    let mut scratch = gpu.alloc::<f64>(cuda::SCRATCH).unwrap();
    let (mut sums, mut first) = (gpu.alloc::<f64>(2).unwrap(), gpu.alloc::<u32>(1).unwrap());
    let (work, to) = (&mut scratch.view_mut(), &mut sums.view_mut().slice(0..1));
    cuda::sum_of_squares(gpu, x.view(), work, to).unwrap();
    cuda::sum(gpu, x.view(), work, &mut sums.view_mut().slice(1..2)).unwrap();
    let work = &mut scratch.view_mut().cast::<u32>();
    cuda::first_non_finite(gpu, x.view(), work, &mut first.view_mut()).unwrap();
    let sums = gpu.download(sums.view()).unwrap();
    (sums[0], sums[1], gpu.download(first.view()).unwrap()[0])
}

fn check(gpu: &Arc<Cuda>, n: usize, rng: &mut Rng, bits: &mut Bits) {
    let wide = rng.values(n, 1.0);
    let mut x = cast::<f32>(&wide);
    let (squares, sum, first) = reduce(gpu, &x);
    bits.add(&[squares, sum]);
    // Both sides sum n terms in f64: n roundings each at most.
    let tol = Tol::new(DType::F64).rounds(2 * n);
    let want = reference::sum_of_squares(&wide);
    assert_close("reduce_sum_of_squares", &[squares], &[want], tol);
    let absolute: f64 = wide.iter().map(|x| x.abs()).sum();
    assert_close("reduce_sum", &[sum], &[reference::sum(&wide)], tol.magnitude(absolute));
    assert_eq!(first, cuda::NONE);

    for i in 0..3 {
        x[rng.below(n)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
        let (squares, sum, first) = reduce(gpu, &x);
        let want = x.iter().position(|x| !x.is_finite()).map(|i| i as u32);
        assert_eq!(Some(first), want, "reduce_first_non_finite");
        assert!(!squares.is_finite() && !sum.is_finite());
    }
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::reduce::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(9);
        for n in SIZES {
            check(gpu, n, &mut rng, bits);
        }
        for _ in 0..gpu::shapes() {
            let n = 1 + rng.below(20_000);
            check(gpu, n, &mut rng, bits);
        }
    });
}

/// More elements than 256 blocks take in one go, and extreme ones.
#[test]
fn long_empty_and_huge_arrays() {
    gpu::run("cuda::reduce::long_empty_and_huge_arrays", |gpu, _| {
        let n = (cuda::SCRATCH << 12) + 5;
        let ones = reduce(gpu, &vec![1.0; n]);
        assert_eq!(ones, (n as f64, n as f64, cuda::NONE));
        assert_eq!(reduce(gpu, &[]), (0.0, 0.0, cuda::NONE));
        // Squares of large f32 do not overflow in f64.
        let large = 2f32.powi(100);
        let want = (2f64.powi(201), 2f64.powi(101), cuda::NONE);
        assert_eq!(reduce(gpu, &[large, large]), want);
    });
}

#[test]
fn bad_arguments_are_errors() {
    gpu::run("cuda::reduce::bad_arguments_are_errors", |gpu, _| {
        let x = gpu.upload(&[1f32; 3]).unwrap();
        let (mut scratch, mut out) = (gpu.alloc(cuda::SCRATCH).unwrap(), gpu.alloc(2).unwrap());
        let mut run = |work: usize, to: usize| {
            let work = &mut scratch.view_mut().slice(0..work);
            cuda::sum(gpu, x.view(), work, &mut out.view_mut().slice(0..to))
                .map_err(|error| error.to_string())
        };
        assert_eq!(run(256, 1), Ok(()));
        assert_eq!(run(255, 1), Err("reduce: len of scratch is 255, expected 256 or more".into()));
        assert_eq!(run(256, 2), Err("reduce: len of out is 2, expected 1".into()));
    });
}
