//! dropout against its f64 reference, and its masks against what dropout is.

use dayrun::device::cpu::Element;
use dayrun::ops::dropout::{Mask, backward, forward, reference};
use dayrun::philox::Moment;
use half::bf16;
use proptest::prelude::*;

use crate::common::tol::binomial;
use crate::common::{
    DType, Rng, Tol, assert_close, assert_same_bits, cases, cast, devices, nan, pairs, size, to_f64,
};

fn mask(seed: u64, p: f64) -> Mask {
    Mask::new(Moment { seed, step: 3, micro_batch: 1 }, 17, p)
}

fn matches_reference<E: Element + Into<f64>>(n: usize, seed: u64, p: f64) {
    let mut rng = Rng::new(seed);
    let (x, before) = (rng.values(n, 1.0), rng.values(n, 1.0));
    let (x, before) = (cast::<E>(&x), cast::<E>(&before));
    let mask = mask(seed, p);
    let want = reference::forward(mask, &to_f64(&x));
    let dtype = DType::of::<E>();
    for pair in pairs() {
        let out = pair.same_bits("dropout", |cpu| {
            let mut out = nan::<E>(n);
            forward(cpu, mask, &x, &mut out).unwrap();
            out
        });
        assert_close("dropout", &out, &want, Tol::new(dtype).rounds(1).steps(2));
        let sum: Vec<f64> = want.iter().zip(to_f64(&before)).map(|(x, b)| x + b).collect();
        let bounds: Vec<f64> =
            want.iter().zip(to_f64(&before)).map(|(x, b)| x.abs() + b.abs()).collect();
        let dx = pair.same_bits("dropout backward", |cpu| {
            let mut dx = before.clone();
            backward(cpu, mask, &x, &mut dx).unwrap();
            dx
        });
        let tol = Tol::new(dtype).rounds(1).steps(3).magnitudes(&bounds);
        assert_close("dropout backward", &dx, &sum, tol);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(n in prop_oneof![size(300), 1usize..40_000], seed: u64, p in 0.0..0.95) {
        matches_reference::<f32>(n, seed, p);
        matches_reference::<bf16>(n, seed, p);
    }
}

/// p of the elements are dropped, neighbours independently, and two masks have nothing in common.
#[test]
fn a_mask_is_random() {
    let n = 1 << 16;
    for p in [0.05, 0.1, 0.5] {
        let kept = reference::kept(mask(1, p), n);
        let dropped = |of: &mut dyn Iterator<Item = bool>| of.filter(|kept| !kept).count();
        let within = |what: &str, got: usize, p: f64, n: usize| {
            let (want, allowed) = binomial(n, p);
            assert!((got as f64 - want).abs() < allowed, "{what}: {got} of {n}, p = {p}");
        };
        within("dropped", dropped(&mut kept.iter().copied()), p, n);
        let both = kept.windows(2).filter(|pair| !pair[0] && !pair[1]).count();
        within("neighbours dropped", both, p * p, n - 1);
        for lane in 0..8 {
            let lanes = &mut kept.iter().copied().skip(lane).step_by(8);
            within("dropped in a lane", dropped(lanes), p, n / 8);
        }
        let other = Mask::new(mask(1, p).moment, 18, p);
        let pairs = kept.iter().zip(reference::kept(other, n));
        let both = pairs.filter(|(a, b)| !**a && !b).count();
        within("dropped in both", both, p * p, n);
    }
}

#[test]
fn nothing_dropped_is_the_input() {
    for cpu in devices() {
        let x = cast::<bf16>(&Rng::new(1).values(1000, 1.0));
        let mut out = nan::<bf16>(1000);
        forward(cpu, mask(1, 0.0), &x, &mut out).unwrap();
        assert_same_bits("p = 0", &out, &x);
    }
}

#[test]
fn wrong_lengths_are_errors() {
    for cpu in devices() {
        let error = forward(cpu, mask(1, 0.5), &[1f32; 4], &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "dropout: len of out is 3, expected 4");
        let error = backward(cpu, mask(1, 0.5), &[1f32; 4], &mut [0.0; 5]).unwrap_err();
        assert_eq!(error.to_string(), "dropout: len of dx is 5, expected 4");
        forward::<f32>(cpu, mask(1, 0.5), &[], &mut []).unwrap();
    }
}
