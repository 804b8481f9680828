//! The adapters' gradients on the GPU: kernels/lora_grad.cu. Shapes as in the op's own page; x and dy have a
//! width that is a multiple of 8.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use super::Part;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, ShapeError, Want, check, check_at_least, check_multiple, dimension};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: "lora_grad", ptx: include_str!("../../../kernels/ptx/lora_grad.ptx") };

/// Most parts of one call (PARTS in lora_grad.cu).
pub const PARTS: usize = 8;
/// Threads of a block (THREADS in lora_grad.cu).
const THREADS: u32 = 256;
/// A block's tile of the product (COLUMNS and N in lora_grad.cu).
const TILE: (usize, usize) = (64, 128);
/// Rows of m that a split has at least, where m has as many, and the most splits.
const SPLIT_ROWS: usize = 512;
const SPLITS: usize = 8;

/// U or V, and the scratch for the partial products.
pub struct Left<'a> {
    /// `columns` columns of U or V, `[m, columns]` at pitch `ld` (a multiple of 8).
    pub data: View<'a, bf16>,
    pub ld: usize,
    pub columns: usize,
    /// `splits(m) · columns · n` elements or more.
    pub partial: ViewMut<'a, f32>,
}

/// `Part` of lora_grad.cu.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct RawPart {
    column: i32,
    r: i32,
    offset: i64,
}

/// Into how many partial products m rows are split. Never fewer for more rows, so that scratch for the most
/// rows holds all.
pub fn splits(m: usize) -> usize {
    m.div_ceil(SPLIT_ROWS).clamp(1, SPLITS)
}

/// For each part: `grads[offset + j·in + i] += Σ_t U[t, column + j] · x[t, i]`. Parts do not overlap in `grads`.
pub fn down(
    cuda: &Cuda,
    m: usize,
    n_in: usize,
    left: Left,
    x: View<bf16>,
    parts: &[Part],
    grads: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    accumulate("lora_grad::down", "lora_grad_add_rows", cuda, m, n_in, left, x, parts, grads)
}

/// For each part: `grads[offset + o·r + j] += Σ_t V[t, column + j] · dy[t, o]`. Parts do not overlap in `grads`.
pub fn up(
    cuda: &Cuda,
    m: usize,
    n_out: usize,
    left: Left,
    dy: View<bf16>,
    parts: &[Part],
    grads: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    accumulate("lora_grad::up", "lora_grad_add_columns", cuda, m, n_out, left, dy, parts, grads)
}

#[allow(clippy::too_many_arguments)]
fn accumulate(
    op: &'static str,
    add: &'static str,
    cuda: &Cuda,
    m: usize,
    n: usize,
    left: Left,
    right: View<bf16>,
    parts: &[Part],
    grads: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let Left { data, ld, columns, mut partial } = left;
    let splits = splits(m);
    check_shapes(op, m, n, data, ld, columns, right)?;
    check_at_least(op, "len of partial", partial.len(), splits * columns * n)?;
    let table = check_parts(op, n, columns, parts, grads.len())?;
    if m == 0 || columns == 0 || n == 0 || parts.is_empty() {
        return Ok(());
    }
    let (rows, width) = (dimension(op, "rows", m)?, dimension(op, "columns of x or dy", n)?);
    let (stack, pitch) =
        (dimension(op, "columns", columns)?, dimension(op, "pitch of U or V", ld)?);
    let split_rows = m.div_ceil(splits) as i32;
    let grid = [columns.div_ceil(TILE.0) as u32, n.div_ceil(TILE.1) as u32, splits as u32];
    let launch = Launch::new(cuda, &SOURCE, "lora_grad_product", grid, THREADS);
    let launch = launch.read(data).read(right).write(&mut partial).value(rows).value(width);
    // SAFETY: lengths, pitches and alignments are checked above; a block writes its own tile of its own
    // split's partial product.
    unsafe { launch.value(stack).value(pitch).value(split_rows).run() }?;

    let most = parts.iter().map(|part| part.r * n).max().unwrap_or(0);
    let blocks = dimension(op, "elements of a gradient", most)? as u32;
    let grid = [blocks.div_ceil(THREADS), parts.len() as u32, 1];
    let launch = Launch::new(cuda, &SOURCE, add, grid, THREADS);
    let launch = launch.read(partial.as_view()).write(grads).value(table).value(width).value(stack);
    // SAFETY: every part lies inside the product and inside the gradients, as checked above; a thread
    // adds to one element.
    Ok(unsafe { launch.value(splits as i32).run() }?)
}

fn check_shapes(
    op: &'static str,
    m: usize,
    n: usize,
    data: View<bf16>,
    ld: usize,
    columns: usize,
    right: View<bf16>,
) -> Result<(), ShapeError> {
    let needed = if m == 0 { 0 } else { (m - 1) * ld + columns };
    check_at_least(op, "pitch of U or V", ld, columns)?;
    check_multiple(op, "pitch of U or V", ld, 8)?;
    check_at_least(op, "len of U or V", data.len(), needed)?;
    check_multiple(op, "address of U or V", data.address() as usize, 16)?;
    check(op, "len of x or dy", right.len(), m * n)?;
    check_multiple(op, "columns of x or dy", n, 8)?;
    check_multiple(op, "address of x or dy", right.address() as usize, 16)
}

/// The kernel's table of parts, each inside of `columns` and of `grads`.
fn check_parts(
    op: &'static str,
    n: usize,
    columns: usize,
    parts: &[Part],
    grads: usize,
) -> Result<[RawPart; PARTS], ShapeError> {
    let mut table = [RawPart::zeroed(); PARTS];
    if parts.len() > PARTS {
        let want = Want::Below(PARTS + 1);
        return Err(ShapeError { op, what: "parts", got: parts.len(), want });
    }
    for (raw, part) in table.iter_mut().zip(parts) {
        check_at_least(op, "columns of U or V", columns, part.column + part.r)?;
        check_at_least(op, "len of grads", grads, part.offset + part.r * n)?;
        let (column, r) = (dimension(op, "column", part.column)?, dimension(op, "r", part.r)?);
        *raw = RawPart { column, r, offset: part.offset as i64 };
    }
    Ok(table)
}
