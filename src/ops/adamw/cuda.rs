//! AdamW on the GPU: kernels/adamw.cu. One launch updates all adapters, one writes their working copy.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::{Factors, Hyper, OP};
use crate::device::cuda::{Buf, Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, check_at_least, dimension};

/// The kernels of this op.
pub const SOURCE: Source = Source { name: OP, ptx: include_str!("../../../kernels/ptx/adamw.ptx") };

/// Threads of a block (THREADS in adamw.cu).
const THREADS: u32 = 256;
/// Most blocks that share one segment.
const SHARE: usize = 64;

/// Updates params, m and v in place. The gradients are clipped to `max_norm` (infinity: not at all), as
/// [`clip_scale`](crate::ops::reduce::clip_scale) does for the root of `sum_of_squares`, one f64 that
/// [`reduce`](crate::ops::reduce::cuda::sum_of_squares) has written. If that is not finite nothing
/// changes: the trainer reads it after the step and says so.
///
/// Step 0 is an error: its bias correction divides by zero.
#[allow(clippy::too_many_arguments)]
pub fn step(
    cuda: &Cuda,
    hyper: &Hyper,
    max_norm: f64,
    sum_of_squares: View<f64>,
    params: &mut ViewMut<f32>,
    grads: View<f32>,
    m: &mut ViewMut<f32>,
    v: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    check_at_least(OP, "step", hyper.step.min(1) as usize, 1)?;
    check(OP, "len of sum_of_squares", sum_of_squares.len(), 1)?;
    check(OP, "len of grads", grads.len(), params.len())?;
    check(OP, "len of m", m.len(), params.len())?;
    check(OP, "len of v", v.len(), params.len())?;
    let n = dimension(OP, "parameters", params.len())?;
    let grid = [(n as u32).div_ceil(THREADS), 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "adamw_step", grid, THREADS);
    let launch = launch.write(params).read(grads).write(m).write(v).read(sum_of_squares);
    let launch = launch.value(max_norm).value(Factors::new(hyper)).value(n);
    // SAFETY: the lengths are checked above; a thread touches one element below n.
    Ok(unsafe { launch.run() }?)
}

/// A matrix `[rows, cols]` to copy: from element `from` of the parameters, whose rows lie `from_pitch` apart,
/// to element `to` of the working copy, whose rows lie `to_pitch` apart. The layout is the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Segment {
    pub from: u64,
    pub to: u64,
    pub rows: u32,
    pub cols: u32,
    pub from_pitch: u32,
    pub to_pitch: u32,
}

impl Segment {
    /// One past the last element read, and one past the last element written.
    fn ends(&self) -> [usize; 2] {
        let (rows, cols) = (self.rows as usize, self.cols as usize);
        let end = |start: u64, pitch: u32| match rows * cols {
            0 => 0,
            _ => (start as usize).saturating_add((rows - 1) * pitch as usize).saturating_add(cols),
        };
        [end(self.from, self.from_pitch), end(self.to, self.to_pitch)]
    }
}

/// A table of [`Segment`]s on the device.
pub struct Segments {
    table: Buf<Segment>,
    /// Elements of the largest one.
    largest: usize,
    /// Elements that params and the copy have at least.
    ends: [usize; 2],
}

impl Segments {
    /// Uploads the table. What the segments write must not overlap.
    ///
    /// # Errors
    /// A written row reaches into the next; the device's own.
    pub fn new(cuda: &Arc<Cuda>, segments: &[Segment]) -> Result<Self, LaunchError> {
        dimension(OP, "segments", segments.len())?;
        let (mut largest, mut ends) = (0, [0; 2]);
        for segment in segments {
            check_at_least(OP, "to_pitch", segment.to_pitch as usize, segment.cols as usize)?;
            largest = largest.max(segment.rows as usize * segment.cols as usize);
            ends = std::array::from_fn(|i| ends[i].max(segment.ends()[i]));
        }
        Ok(Self { table: cuda.upload(segments)?, largest, ends })
    }
}

/// Rounds the parameters into the working copy, segment by segment. What lies between the segments stays:
/// the zeros of padded ranks.
pub fn adapter_copy(
    cuda: &Cuda,
    segments: &Segments,
    params: View<f32>,
    copy: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check_at_least(OP, "len of params", params.len(), segments.ends[0])?;
    check_at_least(OP, "len of the working copy", copy.len(), segments.ends[1])?;
    let blocks = segments.largest.div_ceil(THREADS as usize).min(SHARE);
    let grid = [segments.table.len() as u32, blocks as u32, 1];
    let launch = Launch::new(cuda, &SOURCE, "adamw_adapter_copy", grid, THREADS);
    let launch = launch.read(segments.table.view()).read(params).write(copy);
    // SAFETY: the lengths hold what the segments name, whose ends were computed when they were uploaded.
    Ok(unsafe { launch.run() }?)
}
