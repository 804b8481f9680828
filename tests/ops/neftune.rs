//! neftune against its f64 reference, and its noise against what NEFTune says.

use dayrun::device::cpu::Element;
use dayrun::ops::neftune::{forward, reference};
use dayrun::philox::Moment;
use half::bf16;
use proptest::prelude::*;

use crate::common::tol::uniform_moments;
use crate::common::{
    DType, Rng, Tol, assert_close, assert_same_bits, cases, cast, devices, pairs, to_f64,
};

const MOMENT: Moment = Moment { seed: 9, step: 2, micro_batch: 0 };

fn cu_seqlens(lengths: &[u32]) -> Vec<u32> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn matches_reference<E: Element + Into<f64>>(lengths: &[u32], hidden: usize, alpha: f64) {
    let cu = cu_seqlens(lengths);
    let n = *cu.last().unwrap() as usize * hidden;
    let x = cast::<E>(&Rng::new(3).values(n, 1.0));
    let want = reference::forward(alpha, MOMENT, &cu, hidden, &to_f64(&x));
    let bounds: Vec<f64> = want
        .iter()
        .zip(to_f64(&x))
        .map(|(want, x)| want.abs().max(x.abs()) + (want - x).abs())
        .collect();
    // The magnitude's rounding, u's, their product's, the sum's.
    let tol = Tol::new(DType::of::<E>()).rounds(1).steps(5).magnitudes(&bounds);
    for pair in pairs() {
        let got = pair.same_bits("neftune", |cpu| {
            let mut x = x.clone();
            forward(cpu, alpha, MOMENT, &cu, hidden, &mut x).unwrap();
            x
        });
        assert_close("neftune", &got, &want, tol.cols(hidden));
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(
        lengths in prop::collection::vec(0u32..40, 1..8),
        hidden in 1usize..80,
        alpha in 0.1..20.0,
    ) {
        matches_reference::<f32>(&lengths, hidden, alpha);
        matches_reference::<bf16>(&lengths, hidden, alpha);
    }
}

/// Uniform over ±alpha/√(L·d), of each document's own length.
#[test]
fn the_noise_is_that_of_the_paper() {
    let (hidden, alpha, lengths) = (64, 5.0, [512u32, 128]);
    let cu = cu_seqlens(&lengths);
    let noise = reference::forward(alpha, MOMENT, &cu, hidden, &vec![0.0; 640 * hidden]);
    for (i, length) in lengths.into_iter().enumerate() {
        let noise = &noise[cu[i] as usize * hidden..cu[i + 1] as usize * hidden];
        let most = alpha / (f64::from(length) * hidden as f64).sqrt();
        assert!(noise.iter().all(|x| x.abs() <= most));
        let n = noise.len() as f64;
        let mean = noise.iter().sum::<f64>() / n / most;
        let square = noise.iter().map(|x| x * x).sum::<f64>() / n / most.powi(2);
        let (mean_allowed, square_allowed) = uniform_moments(noise.len());
        assert!(mean.abs() < mean_allowed, "mean {mean}");
        assert!((square - 1.0 / 3.0).abs() < square_allowed, "mean square {square}");
    }
}

/// A document alone and the same one behind another have different noise, but of the same magnitude; the
/// document before it does not change by what comes behind.
#[test]
fn another_document_behind_changes_nothing_before() {
    for cpu in devices() {
        let (mut alone, mut packed) = (vec![0f32; 10 * 7], vec![0f32; 25 * 7]);
        forward(cpu, 5.0, MOMENT, &[0, 10], 7, &mut alone).unwrap();
        forward(cpu, 5.0, MOMENT, &[0, 10, 25], 7, &mut packed).unwrap();
        assert_same_bits("first document", &packed[..70], &alone);
    }
}

#[test]
fn wrong_lengths_are_errors() {
    for cpu in devices() {
        let run = |cu: &[u32], len: usize| {
            forward(cpu, 5.0, MOMENT, cu, 4, &mut vec![0f32; len]).map_err(|e| e.to_string())
        };
        assert_eq!(run(&[0, 3], 12), Ok(()));
        assert_eq!(run(&[0], 0), Ok(()));
        assert_eq!(run(&[0, 3], 11), Err("neftune: len of x is 11, expected 12".into()));
        assert_eq!(run(&[1, 3], 12), Err("neftune: cu_seqlens[0] is 1, expected 0".into()));
        assert!(run(&[0, 3, 2], 8).unwrap_err().contains("end of a document"));
        assert!(run(&[], 0).unwrap_err().contains("len of cu_seqlens"));
    }
}
