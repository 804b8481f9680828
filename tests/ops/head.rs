//! head against its f64 reference.

use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::ops::head::{backward, forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::{
    DType, Rng, Tol, abs_dot, abs_product, assert_close, assert_same_bits, cases, cast, devices,
    dot, finite_difference, nan, pairs, size,
};

fn matches_reference<E: GemmElement + Into<f64>>(m: usize, hidden: usize, vocab: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    let (h, w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 0.5));
    let dlogits = rng.values(m * vocab, 1.0);
    let transposed: Vec<f64> =
        (0..hidden * vocab).map(|i| w[i % vocab * hidden + i / vocab]).collect();
    let want_logits = reference::forward(m, hidden, vocab, &h, &w);
    let want_dh = reference::backward(m, hidden, vocab, &dlogits, &w);
    let logits_bounds = abs_product(m, hidden, vocab, &h, &w);
    let dh_bounds = abs_product(m, vocab, hidden, &dlogits, &transposed);
    for pair in pairs() {
        let logits = pair.same_bits("head.logits", |cpu| {
            let mut logits = nan::<f32>(m * vocab);
            forward(cpu, m, hidden, &cast::<E>(&h), &cast(&w), &mut logits).unwrap();
            logits
        });
        let dh = pair.same_bits("head.dh", |cpu| {
            let mut dh = nan::<E>(m * hidden);
            backward(cpu, m, hidden, &cast::<E>(&dlogits), &cast(&w), &mut dh).unwrap();
            dh
        });
        let tol = Tol::new(DType::F32).sum_len(hidden).magnitudes(&logits_bounds).cols(vocab);
        assert_close("head.logits", &logits, &want_logits, tol);
        let tol = Tol::new(DType::of::<E>()).sum_len(vocab).magnitudes(&dh_bounds).round_result();
        assert_close("head.dh", &dh, &want_dh, tol.cols(hidden));
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn equals_reference(m in size(200), hidden in size(150), vocab in size(300), seed: u64) {
        matches_reference::<f32>(m, hidden, vocab, seed);
        matches_reference::<bf16>(m, hidden, vocab, seed);
    }

    #[test]
    fn reference_backward_equals_finite_differences(
        m in 1usize..4, hidden in 1usize..6, vocab in 1usize..6, seed: u64,
    ) {
        let mut rng = Rng::new(seed);
        let (h, w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 1.0));
        let dlogits = rng.values(m * vocab, 1.0);
        let loss = |h: &[f64]| dot(&reference::forward(m, hidden, vocab, h, &w), &dlogits);
        let dh = reference::backward(m, hidden, vocab, &dlogits, &w);
        let norm = |x: &[f64]| 1.0 + abs_dot(x, x).sqrt();
        let tol = Tol::finite_difference(norm(&h) * norm(&w) * norm(&dlogits));
        assert_close("dh", &finite_difference(&h, loss), &dh, tol);
    }
}

/// The backward pass takes 1024 rows of W and 256 of dlogits at a time: several of both, and rests.
#[test]
fn sums_of_several_stretches() {
    for (m, hidden, vocab) in [(3, 33, 1024), (270, 40, 2100)] {
        matches_reference::<f32>(m, hidden, vocab, 7);
        matches_reference::<bf16>(m, hidden, vocab, 8);
    }
}

/// Few rows have the bits that they have among many, at odd sizes and at widths that are no pairs.
#[test]
fn few_rows_have_the_bits_they_have_among_many() {
    const MANY: usize = 20;
    fn check<E: GemmElement>(hidden: usize, vocab: usize) {
        let mut rng = Rng::new((hidden * 1000 + vocab) as u64);
        let h = cast::<E>(&rng.values(MANY * hidden, 1.0));
        let w = cast(&rng.values(vocab * hidden, 0.5));
        for pair in pairs() {
            let run = |cpu: &Cpu, first: usize, m: usize| {
                let mut logits = nan::<f32>(m * vocab);
                let h = &h[first * hidden..(first + m) * hidden];
                forward(cpu, m, hidden, h, &w, &mut logits).unwrap();
                logits
            };
            let many = run(&pair.one, 0, MANY);
            for m in 1..=10 {
                let few = pair.same_bits("few rows", |cpu| run(cpu, m % 7, m));
                let name = format!("{m} rows of {vocab}x{hidden} on {}", pair.one.name());
                assert_same_bits(&name, &few, &many[m % 7 * vocab..(m % 7 + m) * vocab]);
            }
        }
    }
    for (hidden, vocab) in [(576, 259), (32, 32), (64, 1), (2, 33), (46, 100), (100, 31), (33, 70)]
    {
        check::<bf16>(hidden, vocab);
        check::<f32>(hidden, vocab);
    }
    matches_reference::<bf16>(1, 576, 259, 1);
    matches_reference::<bf16>(5, 130, 77, 1);
}

#[test]
fn short_buffers_are_errors_and_no_rows_are_no_work() {
    let cpu = devices().next().unwrap();
    let w = [bf16::ONE; 15];
    let (mut h, mut logits) = ([1f32; 10], [1f32; 6]);
    forward(cpu, 2, 5, &h, &w, &mut logits).unwrap();
    assert_eq!(logits, [5.0; 6]);
    backward(cpu, 2, 5, &logits, &w, &mut h).unwrap();
    assert_eq!(h, [15.0; 10]);
    assert!(forward(cpu, 2, 5, &h[1..], &w, &mut logits).is_err());
    assert!(forward(cpu, 2, 5, &h, &w, &mut logits[1..]).is_err());
    assert!(forward(cpu, 2, 0, &[0f32; 0], &w, &mut logits).is_err());
    assert_eq!(
        forward(cpu, 2, 5, &h, &w[1..], &mut logits).unwrap_err().to_string(),
        "head::forward: len of w is 14, expected a multiple of 5"
    );
    assert!(backward(cpu, 2, 5, &logits[1..], &w, &mut h).is_err());
    assert!(backward(cpu, 2, 5, &logits, &w, &mut h[1..]).is_err());
    forward::<f32>(cpu, 0, 5, &[], &w, &mut []).unwrap();
    backward::<f32>(cpu, 0, 5, &[], &w, &mut []).unwrap();
}

/// The sum of no terms is zero, and written.
#[test]
fn a_vocabulary_of_none_has_gradients_of_zero() {
    fn check<E: GemmElement>(m: usize, hidden: usize) {
        for pair in pairs() {
            let dh = pair.same_bits("dh", |cpu| {
                let mut dh = nan::<E>(m * hidden);
                backward(cpu, m, hidden, &[], &[], &mut dh).unwrap();
                dh
            });
            assert_same_bits("dh of no vocabulary", &dh, &cast(&vec![0.0; m * hidden]));
        }
    }
    for (m, hidden) in [(1, 1), (13, 33), (270, 40)] {
        check::<f32>(m, hidden);
        check::<bf16>(m, hidden);
    }
}
