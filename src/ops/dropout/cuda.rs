//! Dropout on the GPU: kernels/dropout.cu. The same masks, bit for bit.

use half::bf16;

use super::{Mask, OP, check_lengths};
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, dimension};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/dropout.ptx") };

/// Threads of a block (THREADS in dropout.cu), and elements of a thread.
const THREADS: u32 = 256;
const EIGHT: usize = 8;

/// Writes out.
pub fn forward(
    cuda: &Cuda,
    mask: Mask,
    x: View<bf16>,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check_lengths("len of out", out.len(), x.len())?;
    run(cuda, "dropout_forward", mask, x, out)
}

/// Adds to dx.
pub fn backward(
    cuda: &Cuda,
    mask: Mask,
    t: View<bf16>,
    dx: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check_lengths("len of dx", dx.len(), t.len())?;
    run(cuda, "dropout_backward", mask, t, dx)
}

fn run(
    cuda: &Cuda,
    kernel: &'static str,
    mask: Mask,
    x: View<bf16>,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let blocks = x.len().div_ceil(EIGHT * THREADS as usize);
    let grid = [dimension(OP, "blocks", blocks)? as u32, 1, 1];
    let n = x.len() as u64;
    let moment = mask.moment;
    let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS).read(x).write(out).value(n);
    let launch = launch.value(moment.seed).value(moment.step).value(moment.micro_batch);
    let launch = launch.value(mask.module).value(u32::from(mask.threshold)).value(mask.scale());
    // SAFETY: the lengths are checked by the callers; a thread touches eight elements below n.
    Ok(unsafe { launch.run() }?)
}
