//! The kernels of cross_entropy against the f64 reference.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::cross_entropy::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, assert_close, assert_same_bits, cast, nan, pitched};
use crate::cross_entropy::{bounds, inputs};

const VOCABS: [usize; 10] = [1, 2, 31, 511, 512, 513, 1000, 1024, 3001, 4099];
/// Threads of a block, which share a row's sum: each adds every 512th term, then 5 steps in a warp and
/// 16 warps.
const THREADS: usize = 512;

fn check(gpu: &Arc<Cuda>, positions: usize, vocab: usize, rng: &mut Rng, bits: &mut Bits) {
    let (ld, ld_out) = (vocab + rng.below(3) * 5, vocab.next_multiple_of(8) + 8 * rng.below(3));
    let scale = 1.0 / 64.0;
    let (logits, targets) = inputs(positions, vocab, rng.next_u64());
    let want_losses = reference::forward(vocab, &logits, &targets);
    let want = reference::backward(vocab, &logits, &targets, scale);
    let bounds = bounds(vocab, &logits, &targets, scale);

    let on_logits = gpu.upload(&pitched::<f32>(&logits, vocab, ld)).unwrap();
    let on_targets = gpu.upload(&targets).unwrap();
    let (logits, targets) = (on_logits.view(), on_targets.view());
    let alloc = || gpu.alloc::<f32>(positions).unwrap();
    let (mut losses, mut only) = (alloc(), alloc());
    // Memory that nobody wrote would read as zero, as the padding must be.
    let mut dlogits = gpu.upload(&nan::<bf16>(positions * ld_out)).unwrap();
    cuda::forward(gpu, vocab, logits, ld, targets, &mut only.view_mut()).unwrap();
    let (to, to_d) = (&mut losses.view_mut(), &mut dlogits.view_mut());
    cuda::forward_backward(gpu, vocab, logits, ld, targets, scale as f32, to, to_d, ld_out)
        .unwrap();
    let [losses, only] = [losses, only].map(|x| gpu.download(x.view()).unwrap());
    let dlogits = gpu.download(dlogits.view()).unwrap();

    let chain = vocab.div_ceil(THREADS) + 5 + THREADS / 32;
    // log Σ: the terms' relative errors (e^x 2 units in the last place, the subtraction) are absolute
    // there; the logarithm, the other difference, the sum.
    let magnitudes: Vec<f64> = want_losses.iter().map(|loss| 1.0 + loss.abs()).collect();
    let tol = Tol::new(DType::F32).steps(9).sum_len(chain).magnitudes(&magnitudes);
    assert_close("cross_entropy losses", &losses, &want_losses, tol);
    assert_same_bits("cross_entropy losses without gradients", &only, &losses);
    // e^x and the subtraction, the factor, the product; the sum twice for the target's own.
    let tol = Tol::new(DType::Bf16).rounds(1).steps(9).sum_len(2 * chain);
    let rows = |of: fn(&[bf16], usize) -> &[bf16]| -> Vec<bf16> {
        dlogits.chunks_exact(ld_out).flat_map(|row| of(row, vocab)).copied().collect()
    };
    let got = rows(|row, vocab| &row[..vocab]);
    assert_close("cross_entropy dlogits", &got, &want, tol.magnitudes(&bounds).cols(vocab));
    let padding = rows(|row, vocab| &row[vocab..]);
    assert!(padding.iter().all(|x| x.to_bits() == 0), "the padding columns are 0");
    bits.add(&losses);
    bits.add(&dlogits);
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::cross_entropy::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(8);
        for _ in 0..gpu::shapes() {
            let (positions, vocab) = (1 + rng.below(7), VOCABS[rng.below(VOCABS.len())]);
            check(gpu, positions, vocab, &mut rng, bits);
        }
    });
}

#[test]
fn a_vocabulary_of_150_000() {
    gpu::run("cuda::cross_entropy::a_vocabulary_of_150_000", |gpu, bits| {
        check(gpu, 2, 151_936, &mut Rng::new(7), bits);
    });
}

#[test]
fn uniform_extreme_and_poisoned_rows() {
    gpu::run("cuda::cross_entropy::uniform_extreme_and_poisoned_rows", |gpu, bits| {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let rows = [
            [5.0f32; 4],
            [1000.0, 0.0, 0.0, 0.0],
            [-1000.0, 0.0, -inf, -inf],
            [0.0, nan, 0.0, 0.0],
            [inf, 0.0, 0.0, 0.0],
            [0.0, inf, 0.0, 0.0],
            [nan, 0.0, 0.0, 0.0],
            [-inf; 4],
            [0.0; 4],
        ];
        let logits = gpu.upload(rows.as_flattened()).unwrap();
        // The last one is not in the vocabulary.
        let targets = gpu.upload(&[0, 0, 0, 0, 0, 0, 0, 0, 4u32]).unwrap();
        let (mut losses, mut dlogits) = (gpu.alloc(9).unwrap(), gpu.alloc::<bf16>(72).unwrap());
        let (to, to_d) = (&mut losses.view_mut(), &mut dlogits.view_mut());
        cuda::forward_backward(gpu, 4, logits.view(), 4, targets.view(), 1.0, to, to_d, 8).unwrap();
        let losses: Vec<f32> = gpu.download(losses.view()).unwrap();
        let tol = Tol::new(DType::F32).steps(4);
        assert_close("losses", &losses[..3], &[4f64.ln(), 0.0, 1000.0], tol);
        assert!(losses[3..].iter().all(|loss| loss.is_nan()), "{losses:?}");
        let dlogits = gpu.download(dlogits.view()).unwrap();
        bits.add(&dlogits);
        let row = |p: usize| [0, 1, 2, 3].map(|j| dlogits[8 * p + j].to_f32());
        assert_eq!(row(0), [-0.75, 0.25, 0.25, 0.25]);
        assert_eq!(row(1), [0.0; 4]);
        assert_eq!(row(2), [-1.0, 1.0, 0.0, 0.0]);
        for p in 3..9 {
            assert!(row(p).iter().all(|d| d.is_nan()), "row {p}: {:?}", row(p));
        }
    });
}

#[test]
fn no_positions_are_nothing_and_bad_arguments_are_errors() {
    let name = "cuda::cross_entropy::no_positions_are_nothing_and_bad_arguments_are_errors";
    gpu::run(name, |gpu, _| {
        let logits = gpu.upload(&cast::<f32>(&[1.0; 7])).unwrap();
        let targets = gpu.upload(&[0u32, 2]).unwrap();
        let run = |vocab, ld, count: usize, losses: usize, dlogits: usize, ld_out| {
            let mut losses = gpu.alloc(losses).unwrap();
            let mut dlogits = gpu.alloc::<bf16>(dlogits).unwrap();
            let (logits, targets) = (logits.view(), targets.view().slice(0..count));
            let (to, to_d) = (&mut losses.view_mut(), &mut dlogits.view_mut());
            cuda::forward_backward(gpu, vocab, logits, ld, targets, 1.0, to, to_d, ld_out)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(format!("cross_entropy: {message}"));
        assert_eq!(run(3, 4, 2, 2, 16, 8), Ok(()));
        assert_eq!(run(3, 4, 0, 0, 0, 8), Ok(()));
        assert_eq!(run(0, 4, 2, 2, 16, 8), error("columns of a row is 0, expected 1 or more"));
        assert_eq!(run(3, 2, 2, 2, 16, 8), error("pitch of logits is 2, expected 3 or more"));
        assert_eq!(run(3, 5, 2, 2, 16, 8), error("len of logits is 7, expected 8 or more"));
        assert_eq!(run(3, 4, 2, 1, 16, 8), error("len of losses is 1, expected 2"));
        assert_eq!(run(3, 4, 2, 2, 11, 8), error("len of dlogits is 11, expected 16"));
        let odd = error("pitch of dlogits is 9, expected a multiple of 8");
        assert_eq!(run(3, 4, 2, 2, 18, 9), odd);
        assert_eq!(run(3, 4, 2, 2, 0, 0), error("pitch of dlogits is 0, expected 3 or more"));
        let mut losses = gpu.alloc(1).unwrap();
        let forward =
            cuda::forward(gpu, 3, logits.view(), 4, targets.view(), &mut losses.view_mut());
        let forward = forward.map_err(|error| error.to_string());
        assert_eq!(forward, error("len of losses is 1, expected 2"));
    });
}
