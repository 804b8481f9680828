//! cross_entropy against its f64 reference.

use dayrun::device::cpu::Element;
use dayrun::device::cpu::simd::math::CHAIN;
use dayrun::ops::cross_entropy::{forward, forward_backward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::tol::QUICK_EXP_STEPS;
use crate::common::{
    DType, Rng, Tol, assert_close, assert_same_bits, cases, cast, devices, finite_difference, nan,
    pairs, size,
};

/// Logits on a large offset; every third row is sure of its target, by about 12.
pub fn inputs(positions: usize, vocab: usize, seed: u64) -> (Vec<f64>, Vec<u32>) {
    let mut rng = Rng::new(seed);
    let mut logits = rng.values(positions * vocab, 3.0);
    let targets = rng.indices(positions, vocab);
    for (p, row) in logits.chunks_exact_mut(vocab).enumerate() {
        if p % 3 == 1 {
            row[targets[p] as usize] = 24.0;
        }
        if p % 5 == 1 {
            row.iter_mut().for_each(|logit| *logit = f64::from((*logit + 256.0) as f32));
        }
    }
    (logits, targets)
}

/// Magnitudes of dlogits: rounding logit - max makes the relative error of p grow with it.
pub fn bounds(vocab: usize, logits: &[f64], targets: &[u32], scale: f64) -> Vec<f64> {
    let mut bounds = reference::backward(vocab, logits, targets, scale);
    for ((row, bounds), &target) in
        logits.chunks_exact(vocab).zip(bounds.chunks_exact_mut(vocab)).zip(targets)
    {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for (bound, logit) in bounds.iter_mut().zip(row) {
            *bound *= 1.0 + max - logit;
        }
        // The target's is minus the sum of the others, subtracted in f64: a few 2^-53 of scale.
        let target = target as usize;
        let others: f64 = (0..vocab).filter(|&j| j != target).map(|j| bounds[j].abs()).sum();
        bounds[target] = others + scale * 2f64.powi(-28);
        bounds.iter_mut().for_each(|bound| *bound = bound.abs());
    }
    bounds
}

fn matches_reference<E: Element + Into<f64>>(positions: usize, vocab: usize, seed: u64) {
    let scale = 1.0 / 64.0;
    let (logits, targets) = inputs(positions, vocab, seed);
    let want_losses = reference::forward(vocab, &logits, &targets);
    let want = reference::backward(vocab, &logits, &targets, scale);
    let bounds = bounds(vocab, &logits, &targets, scale);
    let logits = cast::<f32>(&logits);
    for pair in pairs() {
        let run = |cpu: &_| {
            let (mut losses, mut dlogits) = (nan::<f32>(positions), nan::<E>(positions * vocab));
            let scale = scale as f32;
            forward_backward(cpu, vocab, &logits, &targets, scale, &mut losses, &mut dlogits)
                .unwrap();
            (losses, dlogits)
        };
        let losses = pair.same_bits("cross_entropy.losses", |cpu| run(cpu).0);
        let dlogits = pair.same_bits("cross_entropy.dlogits", |cpu| run(cpu).1);
        // log Σ: the terms' relative errors (e^x 2 steps, the subtraction 1, the sum of a stretch) are
        // absolute there.
        let magnitudes: Vec<f64> = want_losses.iter().map(|loss| 1.0 + loss.abs()).collect();
        let tol = Tol::new(DType::F32).steps(4).sum_len(CHAIN);
        assert_close("cross_entropy.losses", &losses, &want_losses, tol.magnitudes(&magnitudes));
        let exp = if DType::of::<E>() == DType::Bf16 { QUICK_EXP_STEPS } else { 2 };
        let tol = Tol::new(DType::of::<E>()).rounds(1).steps(6 + exp).sum_len(CHAIN).cols(vocab);
        assert_close("cross_entropy.dlogits", &dlogits, &want, tol.magnitudes(&bounds));
        let mut only = nan::<f32>(positions);
        forward(&pair.two, vocab, &logits, &targets, &mut only).unwrap();
        assert_same_bits("cross_entropy.losses without gradients", &only, &losses);
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(positions in size(20), vocab in size(3000), seed: u64) {
        matches_reference::<f32>(positions, vocab, seed);
        matches_reference::<bf16>(positions, vocab, seed);
    }

    #[test]
    fn reference_backward_equals_finite_differences(vocab in 1usize..12, seed: u64) {
        let (logits, targets) = inputs(3, vocab, seed);
        let loss = |x: &[f64]| 0.25 * reference::forward(vocab, x, &targets).iter().sum::<f64>();
        let exact = reference::backward(vocab, &logits, &targets, 0.25);
        let numeric = finite_difference(&logits, loss);
        // The loss is a difference of logits of up to 280.
        assert_close("cross_entropy.dlogits", &numeric, &exact, Tol::finite_difference(3.0 * 280.0));
    }
}

#[test]
fn a_vocabulary_of_150_000() {
    matches_reference::<f32>(2, 151_936, 7);
}

#[test]
fn uniform_and_extreme_rows() {
    for cpu in devices() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [
            [5.0f32; 4],
            [1000.0, 0.0, 0.0, 0.0],
            [-1000.0, 0.0, -inf, -inf],
            [0.0, nan, 0.0, 0.0],
            [inf, 0.0, 0.0, 0.0],
        ];
        let (mut losses, mut dlogits) = ([0f32; 5], [0f32; 20]);
        let logits = rows.as_flattened();
        forward_backward(cpu, 4, logits, &[0, 0, 0, 0, 0], 1.0, &mut losses, &mut dlogits).unwrap();
        let tol = Tol::new(DType::F32).steps(4);
        assert_close("losses", &losses[..3], &[4f64.ln(), 0.0, 1000.0], tol);
        assert_eq!(dlogits[..4], [-0.75, 0.25, 0.25, 0.25]);
        assert_eq!(dlogits[4..8], [0.0; 4]);
        assert_eq!(dlogits[8..12], [-1.0, 1.0, 0.0, 0.0]);
        assert!(losses[3].is_nan() && losses[4].is_nan());
        assert!(dlogits[12..].iter().any(|d| d.is_nan()));
    }
}

#[test]
fn bad_arguments_are_errors() {
    let cpu = devices().next().unwrap();
    let logits = cast::<f32>(&[1.0; 6]);
    let run = |vocab, targets: &[u32], losses: usize, dlogits: usize| {
        let (mut losses, mut dlogits) = (vec![0f32; losses], vec![0f32; dlogits]);
        forward_backward(cpu, vocab, &logits, targets, 1.0, &mut losses, &mut dlogits)
            .map_err(|error| error.to_string())
    };
    let error = |message: &str| Err(format!("cross_entropy: {message}"));
    assert_eq!(run(3, &[0, 2], 2, 6), Ok(()));
    assert_eq!(run(3, &[0, 3], 2, 6), error("target is 3, expected less than 3"));
    assert_eq!(run(4, &[0], 1, 6), error("len of logits is 6, expected a multiple of 4"));
    assert_eq!(run(0, &[], 0, 6), error("columns of a row is 0, expected 1 or more"));
    assert_eq!(run(3, &[0], 2, 6), error("len of targets is 1, expected 2"));
    assert_eq!(run(3, &[0, 1], 1, 6), error("len of losses is 1, expected 2"));
    assert_eq!(run(3, &[0, 1], 2, 5), error("len of dlogits is 5, expected 6"));
}
