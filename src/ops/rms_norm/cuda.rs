//! RMSNorm on the GPU: kernels/rms_norm.cu. Shapes and rounding as in the op's own page.

use half::bf16;

use super::OP;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, dimension, rows};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/rms_norm.ptx") };

/// Threads of a block (THREADS in rms_norm.cu).
const THREADS: u32 = 256;

/// Writes y and rstd.
pub fn forward(
    cuda: &Cuda,
    hidden: usize,
    eps: f32,
    x: View<bf16>,
    w: View<bf16>,
    y: &mut ViewMut<bf16>,
    rstd: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of y", y.len(), x.len())?;
    check(OP, "len of rstd", rstd.len(), count)?;
    let (grid, hidden) =
        ([dimension(OP, "rows", count)? as u32, 1, 1], dimension(OP, "hidden", hidden)?);
    let launch = Launch::new(cuda, &SOURCE, "rms_norm_forward", grid, THREADS);
    let launch = launch.read(x).read(w).write(y).write(rstd).value(hidden).value(eps);
    // SAFETY: the lengths are checked above; block t touches row t alone.
    Ok(unsafe { launch.run() }?)
}

/// `out = residual + x`, rounded once; then y and rstd of it.
#[allow(clippy::too_many_arguments)]
pub fn add_forward(
    cuda: &Cuda,
    hidden: usize,
    eps: f32,
    x: View<bf16>,
    residual: View<bf16>,
    out: &mut ViewMut<bf16>,
    w: View<bf16>,
    y: &mut ViewMut<bf16>,
    rstd: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of residual", residual.len(), x.len())?;
    check(OP, "len of out", out.len(), x.len())?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of y", y.len(), x.len())?;
    check(OP, "len of rstd", rstd.len(), count)?;
    let (grid, hidden) =
        ([dimension(OP, "rows", count)? as u32, 1, 1], dimension(OP, "hidden", hidden)?);
    let launch = Launch::new(cuda, &SOURCE, "rms_norm_add_forward", grid, THREADS);
    let launch = launch.read(x).read(residual).write(out).read(w).write(y).write(rstd);
    // SAFETY: the lengths are checked above; block t touches row t alone.
    Ok(unsafe { launch.value(hidden).value(eps).run() }?)
}

/// ADDS the gradient to dx. `x` is what the forward normalised, `rstd` what it wrote.
pub fn backward(
    cuda: &Cuda,
    hidden: usize,
    x: View<bf16>,
    w: View<bf16>,
    rstd: View<f32>,
    dy: View<bf16>,
    dx: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let count = rows(OP, "len of x", x.len(), hidden)?;
    check(OP, "len of w", w.len(), hidden)?;
    check(OP, "len of rstd", rstd.len(), count)?;
    check(OP, "len of dy", dy.len(), x.len())?;
    check(OP, "len of dx", dx.len(), x.len())?;
    let (grid, hidden) =
        ([dimension(OP, "rows", count)? as u32, 1, 1], dimension(OP, "hidden", hidden)?);
    let launch = Launch::new(cuda, &SOURCE, "rms_norm_backward", grid, THREADS);
    let launch = launch.read(x).read(w).read(rstd).read(dy).write(dx).value(hidden);
    // SAFETY: the lengths are checked above; block t touches row t alone.
    Ok(unsafe { launch.run() }?)
}
