//! Reductions on the GPU: kernels/reduce.cu. Results stay on the device, so that nothing waits for them.
//!
//! The order of every sum follows from the length alone.

use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, check_at_least, dimension};

const OP: &str = "reduce";

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/reduce.ptx") };

/// Elements that a call's scratch holds at least.
pub const SCRATCH: usize = 256;

/// What [`first_non_finite`] writes when all elements are finite.
pub const NONE: u32 = u32::MAX;

/// Threads of a block (THREADS in reduce.cu).
const THREADS: u32 = 256;
/// Elements for which another block is worth while.
const BLOCK: usize = 1 << 12;

/// `out[0] = Σ x_i²`.
pub fn sum_of_squares(
    cuda: &Cuda,
    x: View<f32>,
    scratch: &mut ViewMut<f64>,
    out: &mut ViewMut<f64>,
) -> Result<(), LaunchError> {
    add(cuda, "reduce_sum_of_squares", x, scratch, out)
}

/// `out[0] = Σ x_i`.
pub fn sum(
    cuda: &Cuda,
    x: View<f32>,
    scratch: &mut ViewMut<f64>,
    out: &mut ViewMut<f64>,
) -> Result<(), LaunchError> {
    add(cuda, "reduce_sum", x, scratch, out)
}

/// `out[0]` = the index of the first NaN or infinity, or [`NONE`].
pub fn first_non_finite(
    cuda: &Cuda,
    x: View<f32>,
    scratch: &mut ViewMut<u32>,
    out: &mut ViewMut<u32>,
) -> Result<(), LaunchError> {
    let (blocks, n) = check_arguments(x.len(), scratch.len(), out.len())?;
    let launch = Launch::new(cuda, &SOURCE, "reduce_first_non_finite", [blocks, 1, 1], THREADS);
    // SAFETY: threads read below n, and block b, at most SCRATCH - 1, writes element b of the scratch.
    unsafe { launch.read(x).write(scratch).value(n).run() }?;
    let launch = Launch::new(cuda, &SOURCE, "reduce_least", [1, 1, 1], THREADS);
    let launch = launch.read(scratch.as_view()).write(out).value(blocks as i32);
    // SAFETY: it reads what was just written, and writes one element.
    Ok(unsafe { launch.run() }?)
}

fn add(
    cuda: &Cuda,
    kernel: &'static str,
    x: View<f32>,
    scratch: &mut ViewMut<f64>,
    out: &mut ViewMut<f64>,
) -> Result<(), LaunchError> {
    let (blocks, n) = check_arguments(x.len(), scratch.len(), out.len())?;
    let launch = Launch::new(cuda, &SOURCE, kernel, [blocks, 1, 1], THREADS);
    // SAFETY: threads read below n, and block b, at most SCRATCH - 1, writes element b of the scratch.
    unsafe { launch.read(x).write(scratch).value(n).run() }?;
    let launch = Launch::new(cuda, &SOURCE, "reduce_add", [1, 1, 1], THREADS);
    let launch = launch.read(scratch.as_view()).write(out).value(blocks as i32);
    // SAFETY: it reads what was just written, and writes one element.
    Ok(unsafe { launch.run() }?)
}

/// How many blocks work on x, and its length.
fn check_arguments(x: usize, scratch: usize, out: usize) -> Result<(u32, i32), LaunchError> {
    check_at_least(OP, "len of scratch", scratch, SCRATCH)?;
    check(OP, "len of out", out, 1)?;
    let n = dimension(OP, "elements", x)?;
    Ok((x.div_ceil(BLOCK).min(SCRATCH) as u32, n))
}
