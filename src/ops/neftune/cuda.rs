//! NEFTune on the GPU: kernels/neftune.cu. The same noise, bit for bit.
//!
//! cu_seqlens lies on the device, so nothing here looks at it: see `ops::attention::cuda` for how it is padded.
//! Rows behind the last document stay as they are.

use half::bf16;

use super::{OP, STREAM, check_len};
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check_at_least, dimension};
use crate::philox::Moment;

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/neftune.ptx") };

/// Threads of a block, which takes a row (THREADS in neftune.cu).
const THREADS: u32 = 128;

/// Adds the noise to the rows of the first `documents` documents.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    cuda: &Cuda,
    alpha: f64,
    moment: Moment,
    cu_seqlens: View<u32>,
    documents: usize,
    tokens: usize,
    hidden: usize,
    x: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check_at_least(OP, "len of cu_seqlens", cu_seqlens.len(), documents + 1)?;
    check_len(tokens, hidden, x.len())?;
    let grid = [dimension(OP, "tokens", tokens)? as u32, 1, 1];
    let (documents, hidden) =
        (dimension(OP, "documents", documents)?, dimension(OP, "hidden", hidden)?);
    let launch = Launch::new(cuda, &SOURCE, "neftune_forward", grid, THREADS);
    let launch = launch.read(cu_seqlens).write(x).value(documents).value(hidden).value(alpha);
    let launch = launch.value(moment.seed).value(moment.step).value(moment.micro_batch);
    // SAFETY: the lengths are checked above; a block touches the row of its number.
    Ok(unsafe { launch.value(STREAM).run() }?)
}
