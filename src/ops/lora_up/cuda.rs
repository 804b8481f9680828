//! Out of the low rank on the GPU: a product of [`gemm_bf16`](crate::ops::gemm_bf16); there is no
//! kernels/lora_up.cu.

use half::bf16;

use super::Dims;
use crate::device::cuda::{Cuda, View, ViewMut};
use crate::ops::LaunchError;
use crate::ops::gemm_bf16::cuda::{Segment, nn};

/// T = U·A, overwriting t. Pitches are multiples of 8.
pub fn forward(
    cuda: &Cuda,
    dims: Dims,
    u: View<bf16>,
    a: View<bf16>,
    t: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    dims.check(u.len(), a.len(), t.len())?;
    let Dims { m, width, r, ld } = dims;
    nn(cuda, m, width, 1.0, &[Segment { a: u, lda: ld, b: a, ldb: width, k: r }], t, width)
}
