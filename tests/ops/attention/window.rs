//! A sliding window: the same against the reference, and what it must not change.

use dayrun::device::cpu::Element;
use dayrun::ops::attention::Dims;
use half::bf16;
use proptest::prelude::*;

use super::{
    Case, backward_equals_finite_differences, cache_equals_forward, dims, document, head_dim,
    packed_equals_alone,
};
use crate::common::{assert_same_bits, cases, devices};

fn windowed(dims: Dims, window: usize) -> Dims {
    Dims { window: Some(window), ..dims }
}

/// One key, a few, around the borders of vectors, tiles and blocks, longer than documents are.
fn window() -> impl Strategy<Value = usize> {
    prop_oneof![
        1usize..20,
        prop::sample::select(vec![31usize, 32, 33, 63, 64, 65, 66, 127, 128, 129]),
        20usize..150,
        prop::sample::select(vec![400usize, usize::MAX]),
    ]
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn equals_reference(
        lens in prop::collection::vec(document(), 0..5),
        kv_heads in 1usize..3,
        group in 1usize..6,
        head_dim in head_dim(),
        window in window(),
        peak in prop::sample::select(vec![0.25, 1.0, 4.0]),
        seed: u64,
    ) {
        let case = Case::new(windowed(dims(kv_heads, group, head_dim), window), &lens, peak, seed);
        case.check::<f32>();
        case.check::<bf16>();
    }

    #[test]
    fn a_document_does_not_know_what_it_is_packed_with(
        lens in prop::collection::vec(1usize..300, 1..4),
        group in 1usize..4,
        head_dim in prop::sample::select(vec![10usize, 16]),
        window in window(),
        seed: u64,
    ) {
        packed_equals_alone(windowed(dims(2, group, head_dim), window), &lens, seed);
    }

    #[test]
    fn the_cache_gives_what_whole_documents_give(
        lens in prop::collection::vec(1usize..600, 1..4),
        group in 1usize..4,
        head_dim in head_dim(),
        window in window(),
        steps in 1usize..5,
        seed: u64,
    ) {
        let dims = windowed(dims(2, group, head_dim), window);
        cache_equals_forward::<f32>(dims, &lens, steps, seed);
        cache_equals_forward::<bf16>(dims, &lens, steps, seed);
    }
}

#[test]
fn reference_backward_equals_finite_differences() {
    for window in [1, 2, 4] {
        backward_equals_finite_differences(windowed(dims(2, 2, 4), window));
    }
}

/// Windows that end on, before and behind the borders of blocks, in documents of several blocks: of 256, 128 and
/// 64 tokens in the backward pass in bf16, of 64 in the others.
#[test]
fn long_documents() {
    let cases: [(Dims, &[usize], &[usize]); 4] = [
        (dims(1, 1, 32), &[530, 3], &[1, 256, 257, 258]),
        (dims(1, 5, 64), &[270, 1, 140], &[2, 129, 130, 200]),
        (dims(1, 12, 16), &[200, 0, 65], &[63, 64, 65, 66, 129]),
        (dims(1, 2, 40), &[300], &[65, 190]),
    ];
    for (dims, lens, windows) in cases {
        for &window in windows {
            Case::new(windowed(dims, window), lens, 1.0, 9).check::<bf16>();
        }
    }
}

/// Without a window, and with one that no document is longer than: the same bits.
#[test]
fn one_as_long_as_the_documents_is_none() {
    fn check<E: Element>(dims: Dims, lens: &[usize]) {
        let longest = lens.iter().copied().max().unwrap();
        for cpu in devices() {
            let run = |dims| Case::new(dims, lens, 1.0, 13).run::<E>(cpu);
            let none = run(dims);
            run(windowed(dims, longest)).same_bits(&none);
            run(windowed(dims, usize::MAX)).same_bits(&none);
        }
    }
    for dims in [dims(1, 3, 64), dims(2, 2, 10)] {
        check::<f32>(dims, &[300, 1, 64]);
        check::<bf16>(dims, &[300, 1, 64]);
    }
}

/// What the window has left behind by more than a tile and a block is not even read: it may be NaN.
#[test]
fn what_it_has_left_behind_is_not_read() {
    fn check<E: Element>(d: usize) {
        let dims = windowed(dims(1, 2, d), 40);
        let clean = Case::new(dims, &[900], 1.0, 17);
        let mut broken = Case::new(dims, &[900], 1.0, 17);
        let head = |values: &mut [f64], width: usize| values[..width].fill(f64::NAN);
        head(&mut broken.k, d);
        head(&mut broken.v, d);
        head(&mut broken.q, 2 * d);
        for cpu in devices() {
            let (want, got) = (clean.run::<E>(cpu), broken.run::<E>(cpu));
            for ((name, got), (_, want)) in got.parts().into_iter().zip(want.parts()) {
                assert!(got.iter().any(|x| x.is_nan()), "{name}");
                let from = got.len() / 900 * 600;
                assert_same_bits(name, &got[from..], &want[from..]);
            }
        }
    }
    check::<f32>(16);
    check::<bf16>(16);
    check::<bf16>(10);
}
