//! RMSNorm on the GPU: kernels/rms_norm.cu. Shapes and rounding as in the op's own page.

use half::bf16;

use super::OP;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, ShapeError, check, check_multiple, dimension, rows};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/rms_norm.ptx") };

/// Threads of a block (THREADS in rms_norm.cu).
const THREADS: u32 = 256;
/// Rows of up to so many elements, if a multiple of [`PIECE`], go through the kernels for short rows.
const SHORT: usize = 256;
/// Elements of a short row that a lane has: 16 bytes.
const PIECE: usize = 8;

/// How rows are dealt to blocks.
struct Cut {
    blocks: u32,
    hidden: i32,
    /// Of short rows: how many, and the lanes of each.
    short: Option<[i32; 2]>,
}

impl Cut {
    fn new(count: usize, hidden: usize) -> Result<Self, ShapeError> {
        let (rows, width) = (dimension(OP, "rows", count)?, dimension(OP, "hidden", hidden)?);
        if hidden > SHORT || !hidden.is_multiple_of(PIECE) {
            return Ok(Self { blocks: rows as u32, hidden: width, short: None });
        }
        let lanes = (hidden / PIECE).next_power_of_two();
        let in_block = THREADS as usize / lanes;
        // The kernel counts rows up to the end of the last block.
        dimension(OP, "rows", count + in_block)?;
        let blocks = count.div_ceil(in_block) as u32;
        Ok(Self { blocks, hidden: width, short: Some([rows, lanes as i32]) })
    }

    /// The kernel for rows of this length, of two.
    fn launch<'a>(&self, cuda: &'a Cuda, long: &'static str, short: &'static str) -> Launch<'a> {
        let kernel = if self.short.is_some() { short } else { long };
        Launch::new(cuda, &SOURCE, kernel, [self.blocks, 1, 1], THREADS)
    }

    /// Appends the sizes to a launch's arguments.
    fn sizes<'a>(&self, launch: Launch<'a>) -> Launch<'a> {
        match self.short {
            Some([rows, lanes]) => launch.value(rows).value(self.hidden).value(lanes),
            None => launch.value(self.hidden),
        }
    }

    /// Checks the addresses of matrices whose rows are accessed 16 bytes at a time.
    fn check_aligned(&self, addresses: &[u64]) -> Result<(), ShapeError> {
        if self.short.is_none() || self.blocks == 0 {
            return Ok(());
        }
        let mut all = addresses.iter();
        all.try_for_each(|&at| check_multiple(OP, "address of a short row", at as usize, 16))
    }
}

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
    let cut = Cut::new(count, hidden)?;
    cut.check_aligned(&[x.address(), w.address(), y.address()])?;
    let launch = cut.launch(cuda, "rms_norm_forward", "rms_norm_short_forward");
    let launch = cut.sizes(launch.read(x).read(w).write(y).write(rstd)).value(eps);
    // SAFETY: the lengths are checked above; a block touches its own rows alone, of which there are `count`.
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
    let cut = Cut::new(count, hidden)?;
    cut.check_aligned(&[x, residual, w].map(|view| view.address()))?;
    cut.check_aligned(&[out.address(), y.address()])?;
    let launch = cut.launch(cuda, "rms_norm_add_forward", "rms_norm_short_add_forward");
    let launch = launch.read(x).read(residual).write(out).read(w).write(y).write(rstd);
    // SAFETY: the lengths are checked above; a block touches its own rows alone, of which there are `count`.
    Ok(unsafe { cut.sizes(launch).value(eps).run() }?)
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
    let cut = Cut::new(count, hidden)?;
    cut.check_aligned(&[x.address(), w.address(), dy.address(), dx.address()])?;
    let launch = cut.launch(cuda, "rms_norm_backward", "rms_norm_short_backward");
    let launch = launch.read(x).read(w).read(rstd).read(dy).write(dx);
    // SAFETY: the lengths are checked above; a block touches its own rows alone, of which there are `count`.
    Ok(unsafe { cut.sizes(launch).run() }?)
}
