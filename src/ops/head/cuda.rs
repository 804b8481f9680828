//! The head on the GPU: two products of [`gemm_bf16`](crate::ops::gemm_bf16); there is no kernels/head.cu.

use half::bf16;

use crate::device::cuda::{Cuda, View, ViewMut};
use crate::ops::gemm_bf16::cuda::{Segment, nn, nt_f32};
use crate::ops::{LaunchError, check, rows};

/// logits = h·Wᵀ, overwriting the first `vocab` columns of m rows of logits at pitch `ld` (a multiple of 8).
pub fn forward(
    cuda: &Cuda,
    m: usize,
    hidden: usize,
    h: View<bf16>,
    w: View<bf16>,
    logits: &mut ViewMut<f32>,
    ld: usize,
) -> Result<(), LaunchError> {
    const OP: &str = "head::forward";
    let vocab = rows(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of h", h.len(), m * hidden)?;
    let segment = Segment { a: h, lda: hidden, b: w, ldb: hidden, k: hidden };
    nt_f32(cuda, m, vocab, 1.0, &[segment], logits, ld)
}

/// dh = dlogits·W, overwriting dh; dlogits at pitch `ld` (a multiple of 8).
pub fn backward(
    cuda: &Cuda,
    m: usize,
    hidden: usize,
    dlogits: View<bf16>,
    ld: usize,
    w: View<bf16>,
    dh: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    const OP: &str = "head::backward";
    let vocab = rows(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of dh", dh.len(), m * hidden)?;
    let segment = Segment { a: dlogits, lda: ld, b: w, ldb: hidden, k: vocab };
    nn(cuda, m, hidden, 1.0, &[segment], dh, hidden)
}
