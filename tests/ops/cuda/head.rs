//! The head's products on the GPU against the f64 reference, with odd vocabularies at a pitch.

use std::sync::Arc;

use dayrun::device::cuda::Cuda;
use dayrun::ops::head::{cuda, reference};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Rng, Tol, abs_product, assert_close, cast, pitched};

fn check(gpu: &Arc<Cuda>, rng: &mut Rng, bits: &mut Bits) {
    let (m, hidden) = (1 + rng.below(90), 8 * (1 + rng.below(12)));
    let vocab = [1usize, 63, 64, 131, 257][rng.below(5)];
    let ld = vocab.next_multiple_of(8) + 8 * rng.below(2);
    let (h, w) = (rng.values(m * hidden, 1.0), rng.values(vocab * hidden, 0.125));
    let up = |values: &[f64]| gpu.upload(&cast::<bf16>(values)).unwrap();
    let (on_h, on_w) = (up(&h), up(&w));

    let mut logits = gpu.alloc::<f32>((m - 1) * ld + vocab).unwrap();
    gpu.fill(&mut logits.view_mut(), 0xff).unwrap();
    cuda::forward(gpu, m, hidden, on_h.view(), on_w.view(), &mut logits.view_mut(), ld).unwrap();
    let all = gpu.download(logits.view()).unwrap();
    let got: Vec<f32> = all.chunks(ld).flat_map(|row| &row[..vocab]).copied().collect();
    assert!(all.chunks(ld).all(|row| row[vocab..].iter().all(|x| x.is_nan())), "between the rows");
    let want = reference::forward(m, hidden, vocab, &h, &w);
    let bounds = abs_product(m, hidden, vocab, &h, &w);
    let tol = Tol::new(DType::F32).sum_len(hidden).magnitudes(&bounds).cols(vocab);
    assert_close("head logits", &got, &want, tol);
    bits.add(&got);

    let dlogits = rng.values(m * vocab, 0.5);
    let on_d = gpu.upload(&pitched::<bf16>(&dlogits, vocab, ld)).unwrap();
    let mut dh = gpu.alloc::<bf16>(m * hidden).unwrap();
    cuda::backward(gpu, m, hidden, on_d.view(), ld, on_w.view(), &mut dh.view_mut()).unwrap();
    let got = gpu.download(dh.view()).unwrap();
    let want = reference::backward(m, hidden, vocab, &dlogits, &w);
    let abs = |x: &[f64]| x.iter().map(|x| x.abs()).collect::<Vec<f64>>();
    let bounds = reference::backward(m, hidden, vocab, &abs(&dlogits), &abs(&w));
    let tol = Tol::new(DType::Bf16).sum_len(vocab).magnitudes(&bounds).round_result();
    assert_close("head dh", &got, &want, tol.cols(hidden));
    bits.add(&got);
}

#[test]
fn kernels_equal_the_reference() {
    gpu::run("cuda::head::kernels_equal_the_reference", |gpu, bits| {
        let mut rng = Rng::new(11);
        for _ in 0..gpu::shapes() {
            check(gpu, &mut rng, bits);
        }
    });
}

#[test]
fn no_rows_are_nothing_and_short_buffers_are_errors() {
    gpu::run("cuda::head::no_rows_are_nothing_and_short_buffers_are_errors", |gpu, _| {
        let (h, w) = (gpu.upload(&[bf16::ONE; 16]).unwrap(), gpu.upload(&[bf16::ONE; 24]).unwrap());
        let (mut logits, mut dh) = (gpu.alloc::<f32>(16).unwrap(), gpu.alloc::<bf16>(16).unwrap());
        let mut run = |m: usize, hidden: usize, ld: usize| {
            let h = h.view().slice(0..if m == 0 { 0 } else { 16 });
            cuda::forward(gpu, m, hidden, h, w.view(), &mut logits.view_mut(), ld)
                .map_err(|error| error.to_string())
        };
        let error = |message: &str| Err(message.to_string());
        assert_eq!(run(2, 8, 8), Ok(()));
        assert_eq!(run(0, 8, 8), Ok(()));
        assert_eq!(run(3, 8, 8), error("head::forward: len of h is 16, expected 24"));
        assert_eq!(run(2, 7, 8), error("head::forward: len of w is 24, expected a multiple of 7"));
        assert_eq!(run(2, 8, 16), error("gemm_bf16: len of c is 16, expected 19 or more"));
        let dlogits = gpu.upload(&[bf16::ONE; 16]).unwrap();
        let got = cuda::backward(gpu, 1, 8, dlogits.view(), 8, w.view(), &mut dh.view_mut());
        let got = got.map_err(|error| error.to_string());
        assert_eq!(got, error("head::backward: len of dh is 16, expected 8"));
    });
}
