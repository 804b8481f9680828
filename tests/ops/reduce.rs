//! reduce against its f64 reference.

use dayrun::ops::reduce::{clip_scale, first_non_finite, reference, sum, sum_of_squares};
use proptest::prelude::*;

use crate::common::{DType, Rng, Tol, assert_close, cases, cast, devices, pairs, size};

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![size(300), 1usize..100_000, prop::sample::select(vec![16_383, 16_384, 16_385])]
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn sums_equal_reference(n in sizes(), seed: u64) {
        let x = Rng::new(seed).values(n, 1.0);
        let cast = cast::<f32>(&x);
        let squares = reference::sum_of_squares(&x);
        let absolute: f64 = x.iter().map(|x| x.abs()).sum();
        // Both sides sum n terms in f64: n roundings each at most.
        let tol = Tol::new(DType::F64).rounds(2 * n);
        for pair in pairs() {
            let got = pair.same_bits("reduce", |cpu| vec![sum_of_squares(cpu, &cast), sum(cpu, &cast)]);
            assert_close("reduce.sum_of_squares", &got[..1], &[squares], tol);
            assert_close("reduce.sum", &got[1..], &[reference::sum(&x)], tol.magnitude(absolute));
        }
    }

    #[test]
    fn first_non_finite_is_the_first(n in sizes(), seed: u64, count in 0usize..4) {
        let mut rng = Rng::new(seed);
        let mut x: Vec<f32> = cast(&rng.values(n, 1.0));
        for i in 0..count {
            x[rng.below(n)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
        }
        let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
        for cpu in devices() {
            prop_assert_eq!(first_non_finite(cpu, &x), reference::first_non_finite(&wide));
        }
    }
}

#[test]
fn empty_huge_and_poisoned_arrays() {
    for cpu in devices() {
        assert_eq!((sum_of_squares(cpu, &[]), sum(cpu, &[])), (0.0, 0.0));
        assert_eq!(first_non_finite(cpu, &[]), None);
        assert_eq!(first_non_finite(cpu, &[f32::MAX, f32::MIN, 1e-45, -0.0]), None);
        // Squares of large f32 do not overflow in f64.
        let large = 2f32.powi(100);
        assert_eq!(sum_of_squares(cpu, &[large, large]), 2f64.powi(201));
        let mut x = vec![1f32; 50_000];
        x[40_000] = f32::NAN;
        assert!(sum(cpu, &x).is_nan() && sum_of_squares(cpu, &x).is_nan());
    }
}

#[test]
fn clip_scale_is_pytorchs() {
    assert_eq!(clip_scale(0.5, 1.0), 1.0);
    assert_eq!(clip_scale(0.0, 1.0), 1.0);
    assert_eq!(clip_scale(4.0, 1.0), (1.0 / 4.000001) as f32);
    // 1e-6 is added to the norm, so a norm of exactly the maximum is scaled already.
    assert_eq!(clip_scale(1.0, 1.0), (1.0 / 1.000001) as f32);
    assert_eq!(clip_scale(f64::INFINITY, 1.0), 0.0);
    assert!(clip_scale(f64::NAN, 1.0).is_nan());
}
