//! Attention's backward in a sliding window.

use super::*;

/// Windows of one key, of a few, around a tile, and longer than most documents.
fn random(rng: &mut Rng) -> Dims {
    let window = match rng.below(4) {
        0 => 1,
        1 => 2 + rng.below(20),
        2 => TILE - 1 + rng.below(3),
        _ => 1 + rng.below(150),
    };
    Dims { window: Some(window), ..random_dims(rng) }
}

#[test]
fn backward_equals_the_reference() {
    gpu::run("cuda::attention_backward::window::backward_equals_the_reference", |gpu, bits| {
        let mut rng = Rng::new(11);
        for shape in 0..gpu::shapes() {
            let (dims, lens) = (random(&mut rng), random_lens(&mut rng, 5));
            let peak = [0.25, 1.0, 4.0][rng.below(3)];
            let saved = [Saved::Reference, Saved::Forward][shape % 2];
            Case::new(dims, &lens, peak, &mut rng).check(gpu, saved, bits);
        }
        // Several tiles on either side of the window.
        for (group, window) in [(1, 9), (1, 64), (2, 65), (7, 3)] {
            let dims = Dims { window: Some(window), ..dims(1, group, 64) };
            Case::new(dims, &[210], 1.0, &mut rng).check(gpu, Saved::Reference, bits);
        }
    });
}

#[test]
fn a_window_that_holds_every_document_changes_no_bit() {
    let name =
        "cuda::attention_backward::window::a_window_that_holds_every_document_changes_no_bit";
    gpu::run(name, |gpu, _| {
        let mut case = Case::new(dims(1, 3, 64), &[130, 70], 1.0, &mut Rng::new(12));
        let want = case.run(gpu);
        for window in [130, 131, 1 << 20, i32::MAX as usize, usize::MAX] {
            case.dims.window = Some(window);
            let got = case.run(gpu);
            assert_same_bits("dq", &got.dq, &want.dq);
            assert_same_bits("dk", &got.dk, &want.dk);
            assert_same_bits("dv", &got.dv, &want.dv);
        }
    });
}
