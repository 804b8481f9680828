//! swiglu against its f64 reference.

use dayrun::device::cpu::Element;
use dayrun::ops::swiglu::{backward, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::tol::QUICK_EXP_STEPS;
use crate::common::{
    DType, Rng, Tol, assert_close, assert_same_bits, cases, cast, devices, finite_difference, nan,
    pairs, size,
};

/// e^-g (2 steps for one ulp, 2^-17 for bf16), the sum, the division, two products.
fn silu_steps(dtype: DType) -> usize {
    if dtype == DType::Bf16 { QUICK_EXP_STEPS + 4 } else { 6 }
}

fn inputs(n: usize, seed: u64) -> [Vec<f64>; 3] {
    let mut rng = Rng::new(seed);
    [rng.values(n, 4.0), rng.values(n, 1.0), rng.values(n, 1.0)]
}

fn matches_reference<E: Element + Into<f64>>(n: usize, seed: u64) {
    let [gate, up, dh] = inputs(n, seed);
    let want_h = reference::forward(&gate, &up);
    let (want_dgate, want_dup) = reference::backward(&gate, &up, &dh);
    let dtype = DType::of::<E>();
    // σ·(1 + g·(1 - σ)) cancels near g = -1.28: the magnitude is σ·(1 + |g|). 1 - σ is off by up
    // to half a step, times g where it is not yet 0 (g < 17).
    let slope_bound = |g: f64| (1.0 + g.abs()) / (1.0 + (-g).exp());
    let bounds: Vec<f64> = (0..n).map(|i| (dh[i] * up[i]).abs() * slope_bound(gate[i])).collect();
    for pair in pairs() {
        let h = pair.same_bits("swiglu.h", |cpu| {
            let mut h = nan::<E>(n);
            forward(cpu, &cast::<E>(&gate), &cast::<E>(&up), &mut h).unwrap();
            h
        });
        let grads = pair.same_bits("swiglu gradients", |cpu| {
            let (mut gate, mut up, mut dh) = (cast::<E>(&gate), cast(&up), cast(&dh));
            backward(cpu, &mut gate, &mut up, &mut dh).unwrap();
            [gate, up, dh].concat()
        });
        let tol = Tol::new(dtype).rounds(2).steps(silu_steps(dtype));
        assert_close("swiglu.h", &h, &want_h, tol);
        assert_close("swiglu.dup", &grads[n..2 * n], &want_dup, tol);
        let tol = Tol::new(dtype).rounds(1).steps(silu_steps(dtype) + 8).magnitudes(&bounds);
        assert_close("swiglu.dgate", &grads[..n], &want_dgate, tol);
        assert_same_bits("swiglu.h recomputed", &grads[2 * n..], &h);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(n in prop_oneof![size(300), 1usize..40_000], seed: u64) {
        matches_reference::<f32>(n, seed);
        matches_reference::<bf16>(n, seed);
    }

    #[test]
    fn reference_backward_equals_finite_differences(n in 1usize..20, seed: u64) {
        let [gate, up, dh] = inputs(n, seed);
        let loss = |gate: &[f64], up: &[f64]| {
            reference::forward(gate, up).iter().zip(&dh).map(|(h, dh)| h * dh).sum::<f64>()
        };
        let (dgate, dup) = reference::backward(&gate, &up, &dh);
        let bound = (0..n).map(|i| dh[i].abs() * (1.0 + gate[i].abs()) * (1.0 + up[i].abs())).sum();
        let tol = Tol::finite_difference(bound);
        let numeric = finite_difference(&gate, |gate| loss(gate, &up));
        assert_close("swiglu.dgate", &numeric, &dgate, tol);
        assert_close("swiglu.dup", &finite_difference(&up, |up| loss(&gate, up)), &dup, tol);
    }
}

#[test]
fn extreme_gates_stay_finite_and_nan_stays_nan() {
    for cpu in devices() {
        let large = 2f32.powi(100);
        let gates = [0.0, -0.0, 100.0, -100.0, large, -large, 88.0, -88.0, f32::NAN];
        let (up, mut h) = ([2f32; 9], [f32::NAN; 9]);
        forward(cpu, &gates, &up, &mut h).unwrap();
        assert_eq!(h[..6], [0.0, 0.0, 200.0, 0.0, 2.0 * large, 0.0]);
        assert!(h[6..8].iter().all(|h| h.is_finite()) && h[8].is_nan());
        let (mut gate, mut up, mut dh) = (gates, up, [3f32; 9]);
        backward(cpu, &mut gate, &mut up, &mut dh).unwrap();
        assert_eq!(gate[..6], [3.0, 3.0, 6.0, 0.0, 6.0, 0.0]);
        assert_eq!(up[..6], [0.0, 0.0, 300.0, 0.0, 3.0 * large, 0.0]);
        assert!(gate[8].is_nan() && up[8].is_nan() && dh[8].is_nan());
    }
}

#[test]
fn short_buffers_are_errors() {
    let cpu = devices().next().unwrap();
    let (a, mut b, mut c, mut short) = ([1f32; 4], [1f32; 4], [1f32; 4], [1f32; 3]);
    assert_eq!(
        forward(cpu, &a, &a[..3], &mut b).unwrap_err().to_string(),
        "swiglu: len of up is 3, expected 4"
    );
    assert!(forward(cpu, &a, &a, &mut short).is_err());
    assert!(backward(cpu, &mut b, &mut c, &mut short).is_err());
    assert!(backward(cpu, &mut b, &mut short, &mut c).is_err());
    forward::<f32>(cpu, &[], &[], &mut []).unwrap();
    backward::<f32>(cpu, &mut [], &mut [], &mut []).unwrap();
}
