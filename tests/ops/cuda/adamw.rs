//! The kernels of adamw: the step against PyTorch's algorithm in f64, the adapters' copy exactly.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::adamw::cuda::{self, Segment, Segments};
use dayrun::ops::adamw::{Hyper, reference};
use dayrun::ops::reduce;
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, assert_same_bits, cast};

const HYPER: Hyper =
    Hyper { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 1 };

/// params, m and v after a step; grads are clipped to `max_norm`.
fn step(gpu: &Arc<Cuda>, hyper: &Hyper, max_norm: f64, state: [&[f32]; 4]) -> [Vec<f32>; 3] {
    let [mut params, grads, mut m, mut v] = state.map(|x| gpu.upload(x).unwrap());
    let mut scratch = gpu.alloc(reduce::cuda::SCRATCH).unwrap();
    let mut squares = gpu.alloc(1).unwrap();
    let (work, to) = (&mut scratch.view_mut(), &mut squares.view_mut());
    reduce::cuda::sum_of_squares(gpu, grads.view(), work, to).unwrap();
    let (p, m_to, v_to) = (&mut params.view_mut(), &mut m.view_mut(), &mut v.view_mut());
    cuda::step(gpu, hyper, max_norm, squares.view(), p, grads.view(), m_to, v_to).unwrap();
    [params, m, v].map(|x| gpu.download(x.view()).unwrap())
}

fn check(gpu: &Arc<Cuda>, n: usize, rng: &mut Rng, bits: &mut Bits) {
    let count = 1 + rng.below(3000) as u64;
    let hyper = Hyper { step: count, ..HYPER };
    let (params, grads) = (rng.values(n, 1.0), rng.values(n, 0.25));
    let spread = [0.0, 0.125][rng.below(2)];
    let m = rng.values(n, spread);
    let v: Vec<f64> = rng.values(n, spread * spread).iter().map(|v| v.abs()).collect();
    let max_norm = [f64::INFINITY, 1.0, 0.01][rng.below(3)];
    let scale = reduce::clip_scale(reduce::reference::sum_of_squares(&grads).sqrt(), max_norm);
    let (mut want_p, mut want_m, mut want_v) = (params.clone(), m.clone(), v.clone());
    reference::step(&hyper, scale.into(), &mut want_p, &grads, &mut want_m, &mut want_v);

    let [params32, grads32, m32, v32] = [&params, &grads, &m, &v].map(|x| cast::<f32>(x));
    let [got_p, got_m, got_v] = step(gpu, &hyper, max_norm, [&params32, &grads32, &m32, &v32]);
    // m: |m| + |g|, the terms of its sum. p: |p| and the update's own magnitude. One step more than on
    // the CPU: the device's own clip may be another f32.
    let g = |i: usize| grads[i].abs() * f64::from(scale);
    let m_bounds: Vec<f64> = (0..n).map(|i| m[i].abs() + g(i)).collect();
    let bias1 = 1.0 - hyper.beta1.powi(count as i32);
    let bias2 = 1.0 - hyper.beta2.powi(count as i32);
    let p_bounds: Vec<f64> = (0..n)
        .map(|i| {
            let denominator = (want_v[i] / bias2).sqrt() + hyper.eps;
            params[i].abs() + hyper.lr / bias1 * m_bounds[i] / denominator
        })
        .collect();
    let tol = Tol::new(DType::F32);
    assert_close("adamw_step m", &got_m, &want_m, tol.steps(6).magnitudes(&m_bounds));
    assert_close("adamw_step v", &got_v, &want_v, tol.steps(10));
    assert_close("adamw_step params", &got_p, &want_p, tol.steps(17).magnitudes(&p_bounds));
    [got_p, got_m, got_v].iter().for_each(|x| bits.add(x));
}

#[test]
fn step_equals_the_reference() {
    gpu::run("cuda::adamw::step_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(10);
        for _ in 0..gpu::shapes() {
            let n = [255, 256, 257, 1 + rng.below(10_000)][rng.below(4)];
            check(gpu, n, &mut rng, bits);
        }
    });
}

/// The first step moves each parameter by lr against the sign of its gradient, after the decay.
#[test]
fn the_first_step_by_hand_and_one_that_is_not_finite() {
    let name = "cuda::adamw::the_first_step_by_hand_and_one_that_is_not_finite";
    gpu::run(name, |gpu, _| {
        let (params, zero) = ([1f32, -2.0, 3.0], [0f32; 3]);
        let hyper = Hyper { lr: 0.5, weight_decay: 0.25, ..HYPER };
        let run =
            |grads: [f32; 3]| step(gpu, &hyper, f64::INFINITY, [&params, &grads, &zero, &zero]);
        let [p, m, v] = run([4.0, -0.5, 0.0]);
        let want = [0.875 - 0.5, -1.75 + 0.5, 2.625];
        let tol = Tol::new(DType::F32);
        assert_close("adamw.params", &p, &want, tol.steps(16).magnitude(3.0));
        assert_close("adamw.m", &m, &[0.4, -0.05, 0.0], tol.steps(2));
        assert_close("adamw.v", &v, &[0.016, 0.00025, 0.0], tol.steps(2));
        for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(run([4.0, poison, 0.0]), [params, zero, zero], "nothing changes");
        }
    });
}

/// Adapters' A's `[r, in]` and B's `[out, r]`, rank padded to 16, into a copy full of zeros.
#[test]
fn the_copy_rounds_what_the_segments_name_and_nothing_else() {
    let name = "cuda::adamw::the_copy_rounds_what_the_segments_name_and_nothing_else";
    gpu::run(name, |gpu, bits| {
        let mut rng = Rng::new(11);
        for _ in 0..gpu::shapes() {
            let (mut segments, mut from, mut to) = (Vec::new(), 0, 0);
            for _ in 0..1 + rng.below(5) {
                let r = 1 + rng.below(20) as u32;
                let (n_in, n_out) = (1 + rng.below(200) as u32, 1 + rng.below(200) as u32);
                let padded = r.next_multiple_of(16);
                let a = Segment { from, to, rows: r, cols: n_in, from_pitch: n_in, to_pitch: n_in };
                (from, to) = (from + u64::from(r * n_in), to + u64::from(padded * n_in));
                let b = Segment { from, to, rows: n_out, cols: r, from_pitch: r, to_pitch: padded };
                (from, to) = (from + u64::from(n_out * r), to + u64::from(n_out * padded));
                segments.extend([a, b]);
            }
            let params: Vec<f32> = (0..from).map(|_| rng.normal() as f32).collect();
            let mut want = vec![bf16::ZERO; to as usize];
            for s in &segments {
                for i in 0..s.rows as u64 {
                    for j in 0..s.cols as u64 {
                        let from = (s.from + i * u64::from(s.from_pitch) + j) as usize;
                        let to = (s.to + i * u64::from(s.to_pitch) + j) as usize;
                        want[to] = bf16::from_f32(params[from]);
                    }
                }
            }
            let segments = Segments::new(gpu, &segments).unwrap();
            let params = gpu.upload(&params).unwrap();
            let mut copy = gpu.upload(&vec![bf16::ZERO; to as usize]).unwrap();
            cuda::adapter_copy(gpu, &segments, params.view(), &mut copy.view_mut()).unwrap();
            let got = gpu.download(copy.view()).unwrap();
            assert_same_bits("adamw_adapter_copy", &got, &want);
            bits.add(&got);
        }
    });
}

#[test]
fn bad_arguments_are_errors() {
    gpu::run("cuda::adamw::bad_arguments_are_errors", |gpu, _| {
        let squares = gpu.upload(&[1f64, 1.0]).unwrap();
        let run = |step: u64, sum: usize, p: usize, grads: usize, m: usize, v: usize| {
            let [mut p, grads, mut m, mut v] =
                [p, grads, m, v].map(|n| gpu.upload(&vec![1f32; n]).unwrap());
            let sum = squares.view().slice(0..sum);
            let (p, m, v) = (&mut p.view_mut(), &mut m.view_mut(), &mut v.view_mut());
            cuda::step(gpu, &Hyper { step, ..HYPER }, 1.0, sum, p, grads.view(), m, v)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("adamw: {message}"));
        assert_eq!(run(1, 1, 4, 4, 4, 4), Ok(()));
        assert_eq!(run(1, 1, 0, 0, 0, 0), Ok(()));
        assert_eq!(run(0, 1, 4, 4, 4, 4), error("step is 0, expected 1 or more"));
        assert_eq!(run(1, 2, 4, 4, 4, 4), error("len of sum_of_squares is 2, expected 1"));
        assert_eq!(run(1, 1, 4, 3, 4, 4), error("len of grads is 3, expected 4"));
        assert_eq!(run(1, 1, 4, 4, 5, 4), error("len of m is 5, expected 4"));
        assert_eq!(run(1, 1, 4, 4, 4, 0), error("len of v is 0, expected 4"));

        let segment = Segment { from: 1, to: 2, rows: 2, cols: 3, from_pitch: 3, to_pitch: 8 };
        let copy = |segments: &[Segment], params: usize, copy: usize| {
            let params = gpu.upload(&vec![1f32; params]).unwrap();
            let mut copy = gpu.upload(&vec![bf16::ZERO; copy]).unwrap();
            let segments = Segments::new(gpu, segments);
            let done = segments.and_then(|segments| {
                cuda::adapter_copy(gpu, &segments, params.view(), &mut copy.view_mut())
            });
            done.map_err(|error| error.to_string())
        };
        assert_eq!(copy(&[segment], 7, 13), Ok(()));
        assert_eq!(copy(&[], 0, 0), Ok(()));
        assert_eq!(copy(&[Segment { rows: 0, ..segment }], 0, 0), Ok(()));
        assert_eq!(copy(&[segment], 6, 13), error("len of params is 6, expected 7 or more"));
        let short = error("len of the working copy is 12, expected 13 or more");
        assert_eq!(copy(&[segment], 7, 12), short);
        let narrow = Segment { to_pitch: 2, ..segment };
        assert_eq!(copy(&[narrow], 7, 13), error("to_pitch is 2, expected 3 or more"));
        let far = Segment { from: u64::MAX, ..segment };
        assert!(copy(&[far], 7, 13).is_err());
    });
}
