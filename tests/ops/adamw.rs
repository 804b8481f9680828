//! adamw against PyTorch's algorithm in f64.

use dayrun::ops::adamw::{Hyper, reference, step};
use proptest::prelude::*;

use crate::common::{DType, Rng, Tol, assert_close, cases, cast, devices, pairs, size};

const HYPER: Hyper =
    Hyper { lr: 2e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 1 };

proptest! {
    #![proptest_config(cases(48))]

    /// One step from any state.
    #[test]
    fn equals_reference(
        n in prop_oneof![size(300), 1usize..40_000],
        count in 1u64..3000,
        fresh: bool,
        seed: u64,
    ) {
        let hyper = Hyper { step: count, ..HYPER };
        let grad_scale = 0.375;
        let mut rng = Rng::new(seed);
        let params = rng.values(n, 1.0);
        let grads = rng.values(n, 0.25);
        let spread = if fresh { 0.0 } else { 0.125 };
        let m = rng.values(n, spread);
        let v: Vec<f64> = rng.values(n, spread * spread).iter().map(|v| v.abs()).collect();
        let (mut want_p, mut want_m, mut want_v) = (params.clone(), m.clone(), v.clone());
        reference::step(&hyper, grad_scale, &mut want_p, &grads, &mut want_m, &mut want_v);

        // m: |m| + |g|, the terms of its sum. p: |p| and the update's own magnitude.
        let m_bounds: Vec<f64> = (0..n).map(|i| m[i].abs() + grads[i].abs()).collect();
        let bias1 = 1.0 - hyper.beta1.powi(count as i32);
        let bias2 = 1.0 - hyper.beta2.powi(count as i32);
        let p_bounds: Vec<f64> = (0..n)
            .map(|i| {
                let denominator = (want_v[i] / bias2).sqrt() + hyper.eps;
                params[i].abs() + hyper.lr / bias1 * m_bounds[i] / denominator
            })
            .collect();
        for pair in pairs() {
            let got = pair.same_bits("adamw", |cpu| {
                let (mut p, mut m, mut v) = (cast(&params), cast(&m), cast(&v));
                let grads = cast::<f32>(&grads);
                step(cpu, &hyper, grad_scale as f32, &mut p, &grads, &mut m, &mut v).unwrap();
                [p, m, v].concat()
            });
            let tol = Tol::new(DType::F32);
            assert_close("adamw.m", &got[n..2 * n], &want_m, tol.steps(5).magnitudes(&m_bounds));
            assert_close("adamw.v", &got[2 * n..], &want_v, tol.steps(8));
            // Two products and a difference on p; the update: m, half of v, four operations.
            assert_close("adamw.params", &got[..n], &want_p, tol.steps(14).magnitudes(&p_bounds));
        }
    }
}

/// The first step moves each parameter by lr against the sign of its gradient, after the decay.
#[test]
fn the_first_step_by_hand() {
    for cpu in devices() {
        let (mut p, mut m, mut v) = ([1f32, -2.0, 3.0], [0f32; 3], [0f32; 3]);
        let hyper = Hyper { lr: 0.5, weight_decay: 0.25, ..HYPER };
        step(cpu, &hyper, 1.0, &mut p, &[4.0, -0.5, 0.0], &mut m, &mut v).unwrap();
        let want = [0.875 - 0.5, -1.75 + 0.5, 2.625];
        assert_close("adamw.params", &p, &want, Tol::new(DType::F32).steps(16).magnitude(3.0));
        assert_close("adamw.m", &m, &[0.4, -0.05, 0.0], Tol::new(DType::F32).steps(2));
        assert_close("adamw.v", &v, &[0.016, 0.00025, 0.0], Tol::new(DType::F32).steps(2));
    }
}

#[test]
fn nan_reaches_the_parameter_it_belongs_to() {
    for cpu in devices() {
        let (mut p, mut m, mut v) = ([1f32; 3], [0f32; 3], [0f32; 3]);
        step(cpu, &HYPER, 1.0, &mut p, &[1.0, f32::NAN, 1.0], &mut m, &mut v).unwrap();
        assert!(p[1].is_nan() && m[1].is_nan() && v[1].is_nan());
        assert!(p[0].is_finite() && p[2].is_finite());
    }
}

#[test]
fn bad_arguments_are_errors() {
    let cpu = devices().next().unwrap();
    let run = |hyper: Hyper, grads: usize, m: usize, v: usize| {
        let (mut p, mut m, mut v) = ([1f32; 4], vec![0f32; m], vec![0f32; v]);
        let result = step(cpu, &hyper, 1.0, &mut p, &vec![1f32; grads], &mut m, &mut v);
        assert!(result.is_ok() || p == [1f32; 4]);
        result.map_err(|error| error.to_string())
    };
    let error = |message: &str| Err(format!("adamw: {message}"));
    assert_eq!(run(HYPER, 4, 4, 4), Ok(()));
    assert_eq!(run(Hyper { step: 0, ..HYPER }, 4, 4, 4), error("step is 0, expected 1 or more"));
    assert_eq!(run(HYPER, 3, 4, 4), error("len of grads is 3, expected 4"));
    assert_eq!(run(HYPER, 4, 5, 4), error("len of m is 5, expected 4"));
    assert_eq!(run(HYPER, 4, 4, 0), error("len of v is 0, expected 4"));
}
