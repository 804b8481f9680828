//! The kernels of swiglu against the f64 reference.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::swiglu::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, assert_same_bits, cast};

/// e^-g (2 units in the last place by CUDA's manual: 4 steps), the sum, the division, the product.
const SILU_STEPS: usize = 7;

fn check(gpu: &Arc<Cuda>, n: usize, rng: &mut Rng, bits: &mut Bits) {
    let [gate, up, dh] = [rng.values(n, 4.0), rng.values(n, 1.0), rng.values(n, 1.0)];
    let (want_h, (want_dgate, want_dup)) =
        (reference::forward(&gate, &up), reference::backward(&gate, &up, &dh));
    let upload = |x: &[f64]| gpu.upload(&cast::<bf16>(x)).unwrap();
    let (mut on_gate, mut on_up, mut on_dh) = (upload(&gate), upload(&up), upload(&dh));
    let mut h = gpu.alloc::<bf16>(n).unwrap();
    cuda::forward(gpu, on_gate.view(), on_up.view(), &mut h.view_mut()).unwrap();
    let (to_gate, to_up, to_dh) =
        (&mut on_gate.view_mut(), &mut on_up.view_mut(), &mut on_dh.view_mut());
    cuda::backward(gpu, to_gate, to_up, to_dh).unwrap();

    let [h, dgate, dup, recomputed] =
        [h, on_gate, on_up, on_dh].map(|x| gpu.download(x.view()).unwrap());
    let tol = Tol::new(DType::Bf16).rounds(2).steps(SILU_STEPS);
    assert_close("swiglu_forward h", &h, &want_h, tol);
    assert_close("swiglu_backward dup", &dup, &want_dup, tol);
    // The magnitude is σ·(1 + |g|), because σ·(1 + g·(1 - σ)) cancels near g = -1.28.
    let slope_bound = |g: f64| (1.0 + g.abs()) / (1.0 + (-g).exp());
    let bounds: Vec<f64> = (0..n).map(|i| (dh[i] * up[i]).abs() * slope_bound(gate[i])).collect();
    let tol = Tol::new(DType::Bf16).rounds(1).steps(SILU_STEPS + 8).magnitudes(&bounds);
    assert_close("swiglu_backward dgate", &dgate, &want_dgate, tol);
    assert_same_bits("swiglu_backward h", &recomputed, &h);
    for result in [h, dgate, dup] {
        bits.add(&result);
    }
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::swiglu::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(4);
        for n in [1, 255, 256, 257] {
            check(gpu, n, &mut rng, bits);
        }
        for _ in 0..gpu::shapes() {
            let n = 1 + rng.below(20_000);
            check(gpu, n, &mut rng, bits);
        }
    });
}

#[test]
fn extreme_gates_stay_finite_and_nan_stays_nan() {
    gpu::run("cuda::swiglu::extreme_gates_stay_finite_and_nan_stays_nan", |gpu, bits| {
        let large = 2f32.powi(100);
        let gates = [0.0, -0.0, 100.0, -100.0, large, -large, 88.0, -88.0, f32::NAN];
        let upload = |x: [f32; 9]| gpu.upload(&x.map(bf16::from_f32)).unwrap();
        let (mut gate, mut up, mut dh) = (upload(gates), upload([2.0; 9]), upload([3.0; 9]));
        let mut h = gpu.alloc::<bf16>(9).unwrap();
        cuda::forward(gpu, gate.view(), up.view(), &mut h.view_mut()).unwrap();
        let (on_gate, on_up) = (&mut gate.view_mut(), &mut up.view_mut());
        cuda::backward(gpu, on_gate, on_up, &mut dh.view_mut()).unwrap();
        let [h, gate, up, dh] =
            [h, gate, up, dh].map(|x| gpu.download(x.view()).unwrap()).map(|x| {
                bits.add(&x);
                x.into_iter().map(bf16::to_f32).collect::<Vec<f32>>()
            });
        assert_eq!(h[..6], [0.0, 0.0, 200.0, 0.0, 2.0 * large, 0.0]);
        assert!(h[6..8].iter().all(|h| h.is_finite()) && h[8].is_nan());
        assert_eq!(gate[..6], [3.0, 3.0, 6.0, 0.0, 6.0, 0.0]);
        assert_eq!(up[..6], [0.0, 0.0, 300.0, 0.0, 3.0 * large, 0.0]);
        assert!(gate[8].is_nan() && up[8].is_nan() && dh[8].is_nan());
    });
}

#[test]
fn no_elements_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::swiglu::no_elements_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let ones = || gpu.upload(&[bf16::ONE; 4]).unwrap();
        let (mut gate, mut up, mut dh, mut h) = (ones(), ones(), ones(), ones());
        let mut forward = |a: usize, b: usize, c: usize| {
            let (gate, up) = (gate.view().slice(0..a), up.view().slice(0..b));
            cuda::forward(gpu, gate, up, &mut h.view_mut().slice(0..c))
                .map_err(|error| error.to_string())
        };
        assert_eq!(forward(4, 4, 4), Ok(()));
        assert_eq!(forward(0, 0, 0), Ok(()));
        assert_eq!(forward(4, 3, 4), Err("swiglu: len of up is 3, expected 4".into()));
        assert_eq!(forward(4, 4, 3), Err("swiglu: len of h is 3, expected 4".into()));
        let mut backward = |a: usize, b: usize, c: usize| {
            let (gate, up) = (&mut gate.view_mut().slice(0..a), &mut up.view_mut().slice(0..b));
            cuda::backward(gpu, gate, up, &mut dh.view_mut().slice(0..c))
                .map_err(|error| error.to_string())
        };
        assert_eq!(backward(4, 4, 4), Ok(()));
        assert_eq!(backward(0, 0, 0), Ok(()));
        assert_eq!(backward(4, 3, 4), Err("swiglu: len of up is 3, expected 4".into()));
        assert_eq!(backward(4, 4, 3), Err("swiglu: len of dh is 3, expected 4".into()));
    });
}
