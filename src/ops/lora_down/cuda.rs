//! Into the low rank on the GPU: products of [`gemm_bf16`](crate::ops::gemm_bf16) scaled by s; there is no
//! kernels/lora_down.cu.
//!
//! Adapters that share x are one product: up to 128 columns are one tile that reads x once (64 where m is 64 or
//! less), and the blocks of more columns are neighbours, so that x comes from L2 the second time.

use half::bf16;

use crate::device::cuda::{Cuda, View, ViewMut};
use crate::ops::gemm_bf16::cuda::{Segment, nn, nt};
use crate::ops::{LaunchError, check};

/// V = s·x·Aᵀ, overwriting the first `r` columns of each row of `v` at pitch `ld` (a multiple of 8).
#[allow(clippy::too_many_arguments)]
pub fn forward(
    cuda: &Cuda,
    m: usize,
    n_in: usize,
    r: usize,
    scale: f32,
    x: View<bf16>,
    a: View<bf16>,
    v: &mut ViewMut<bf16>,
    ld: usize,
) -> Result<(), LaunchError> {
    const OP: &str = "lora_down::forward";
    check(OP, "len of x", x.len(), m * n_in)?;
    check(OP, "len of a", a.len(), r * n_in)?;
    let product = Segment { a: x, lda: n_in, b: a, ldb: n_in, k: n_in };
    nt(cuda, m, r, scale, &[product], None, v, ld)
}

/// U = s·dy·B, overwriting the first `r` columns of each row of `u` at pitch `ld` (a multiple of 8).
#[allow(clippy::too_many_arguments)]
pub fn backward(
    cuda: &Cuda,
    m: usize,
    n_out: usize,
    r: usize,
    scale: f32,
    dy: View<bf16>,
    b: View<bf16>,
    u: &mut ViewMut<bf16>,
    ld: usize,
) -> Result<(), LaunchError> {
    const OP: &str = "lora_down::backward";
    check(OP, "len of dy", dy.len(), m * n_out)?;
    check(OP, "len of b", b.len(), n_out * r)?;
    nn(cuda, m, r, scale, &[Segment { a: dy, lda: n_out, b, ldb: r, k: n_out }], u, ld)
}
