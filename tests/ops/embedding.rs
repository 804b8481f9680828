//! embedding against its f64 reference: a copy, so exact.

use dayrun::device::cpu::Element;
use dayrun::ops::embedding::{forward, reference};
use half::bf16;
use proptest::prelude::*;

use crate::common::{DType, Rng, Tol, assert_close, cases, cast, devices, nan, pairs, size};

fn matches_reference<E: Element + Into<f64>>(
    tokens: usize,
    vocab: usize,
    hidden: usize,
    seed: u64,
) {
    let mut rng = Rng::new(seed);
    let table = rng.values(vocab * hidden, 1.0);
    let ids = rng.indices(tokens, vocab);
    let want = reference::forward(&ids, &table, hidden);
    let table = cast::<bf16>(&table);
    for pair in pairs() {
        let got = pair.same_bits("embedding", |cpu| {
            let mut out = nan::<E>(tokens * hidden);
            forward(cpu, &ids, &table, hidden, &mut out).unwrap();
            out
        });
        assert_close("embedding.out", &got, &want, Tol::new(DType::of::<E>()).cols(hidden));
    }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn equals_reference(tokens in size(80), vocab in size(90), hidden in size(200), seed: u64) {
        matches_reference::<f32>(tokens, vocab, hidden, seed);
        matches_reference::<bf16>(tokens, vocab, hidden, seed);
    }
}

#[test]
fn no_tokens_is_fine() {
    let cpu = devices().next().unwrap();
    forward::<f32>(cpu, &[], &[bf16::ONE; 6], 3, &mut []).unwrap();
}

#[test]
fn bad_arguments_are_errors_and_write_nothing() {
    let cpu = devices().next().unwrap();
    let table = [bf16::ONE; 12];
    let mut out = [7f32; 6];
    let mut message = |tokens: &[u32], hidden, len: usize| {
        let message =
            forward(cpu, tokens, &table, hidden, &mut out[..len]).unwrap_err().to_string();
        assert_eq!(out, [7f32; 6]);
        message
    };
    assert_eq!(message(&[0, 4], 3, 6), "embedding: token id is 4, expected less than 4");
    assert_eq!(
        message(&[0, u32::MAX], 3, 6),
        "embedding: token id is 4294967295, expected less than 4"
    );
    assert_eq!(message(&[0, 1], 3, 5), "embedding: len of out is 5, expected a multiple of 3");
    assert_eq!(message(&[0, 1], 3, 3), "embedding: rows of out is 1, expected 2");
    assert_eq!(message(&[0], 5, 5), "embedding: len of table is 12, expected a multiple of 5");
    assert_eq!(message(&[0], 0, 5), "embedding: columns of a row is 0, expected 1 or more");
}
