//! Embedding on the GPU, and the other movers of rows: kernels/embedding.cu.
//!
//! Tokens and positions lie on the device, so they are not checked here: whoever uploads them does. One that
//! does not exist gives a row of NaN when it is read, and nothing when it is written.

use half::bf16;

use super::OP;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, dimension, rows};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/embedding.ptx") };

/// Threads of a block that moves a row, and of one that adds (ROW_THREADS, THREADS in embedding.cu).
const ROW_THREADS: u32 = 128;
const THREADS: u32 = 256;

/// `out[t, :] = table[tokens[t], :]`.
pub fn forward(
    cuda: &Cuda,
    tokens: View<u32>,
    table: View<bf16>,
    hidden: usize,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let vocab = rows(OP, "len of table", table.len(), hidden)?;
    let count = rows(OP, "len of out", out.len(), hidden)?;
    check(OP, "rows of out", count, tokens.len())?;
    let (vocab, width) = (dimension(OP, "vocab", vocab)?, dimension(OP, "hidden", hidden)?);
    let grid = [dimension(OP, "tokens", count)? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "embedding_forward", grid, ROW_THREADS);
    let launch = launch.read(tokens).read(table).write(out).value(vocab).value(width);
    // SAFETY: the lengths are checked above; block t writes row t, and reads a row below vocab.
    Ok(unsafe { launch.run() }?)
}

/// `out[p, :] = x[positions[p], :]`, for x `[T, hidden]`, positions `[P]`, out `[P, hidden]`.
pub fn gather(
    cuda: &Cuda,
    x: View<bf16>,
    positions: View<u32>,
    hidden: usize,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let count = rows(OP, "len of x to gather", x.len(), hidden)?;
    check(OP, "len of out to gather to", out.len(), positions.len().saturating_mul(hidden))?;
    let (count, width) = (dimension(OP, "rows", count)?, dimension(OP, "hidden", hidden)?);
    let grid = [dimension(OP, "positions", positions.len())? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "embedding_gather_rows", grid, ROW_THREADS);
    let launch = launch.read(x).read(positions).write(out).value(count).value(width);
    // SAFETY: the lengths are checked above; block p writes row p, and reads a row below count.
    Ok(unsafe { launch.run() }?)
}

/// `out[positions[p], :] = x[p, :]` and 0 everywhere else, for x `[P, hidden]`, out `[T, hidden]`. The
/// positions must all be different.
pub fn scatter(
    cuda: &Cuda,
    x: View<bf16>,
    positions: View<u32>,
    hidden: usize,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let count = rows(OP, "len of out to scatter to", out.len(), hidden)?;
    check(OP, "len of x to scatter", x.len(), positions.len().saturating_mul(hidden))?;
    let (count, width) = (dimension(OP, "rows", count)?, dimension(OP, "hidden", hidden)?);
    let grid = [dimension(OP, "positions", positions.len())? as u32, 1, 1];
    cuda.fill(out, 0)?;
    let launch = Launch::new(cuda, &SOURCE, "embedding_scatter_rows", grid, ROW_THREADS);
    let launch = launch.read(x).read(positions).write(out).value(count).value(width);
    // SAFETY: the lengths are checked above; block p reads row p, and writes a row below count.
    Ok(unsafe { launch.run() }?)
}

/// `out = residual + x`, rounded once.
pub fn add(
    cuda: &Cuda,
    x: View<bf16>,
    residual: View<bf16>,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check(OP, "len of residual", residual.len(), x.len())?;
    check(OP, "len of the sum", out.len(), x.len())?;
    let n = x.len();
    let grid = [dimension(OP, "blocks", n.div_ceil(THREADS as usize))? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, "embedding_add", grid, THREADS);
    let launch = launch.read(x).read(residual).write(out).value(n as u64);
    // SAFETY: the lengths are checked above; a thread touches one element below n.
    Ok(unsafe { launch.run() }?)
}
