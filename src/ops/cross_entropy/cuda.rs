//! Cross-entropy on the GPU: kernels/cross_entropy.cu. As the op's own page says, with pitches, and with
//! f32 sums.
//!
//! Targets lie on the device, so they are not checked here: whoever uploads them does. One beyond the
//! vocabulary makes its row's loss NaN.

use half::bf16;

use super::OP;
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, ShapeError, check, check_at_least, check_multiple, dimension};

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/cross_entropy.ptx") };

/// Threads of a block (THREADS in cross_entropy.cu).
const THREADS: u32 = 512;

/// Writes the loss of each position: logits `[P, vocab]` at a pitch of `ld` elements.
pub fn forward(
    cuda: &Cuda,
    vocab: usize,
    logits: View<f32>,
    ld: usize,
    targets: View<u32>,
    losses: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let (grid, vocab, ld) = check_logits(vocab, logits, ld, targets, losses)?;
    let launch = Launch::new(cuda, &SOURCE, "cross_entropy_forward", grid, THREADS);
    let launch = launch.read(logits).read(targets).write(losses).value(vocab).value(ld);
    // SAFETY: the lengths are checked above; block p touches row p alone.
    Ok(unsafe { launch.run() }?)
}

/// Writes the loss of each position, and the gradient of `scale · Σ losses`: dlogits `[P, vocab]` at a
/// pitch of `ld_out` elements, a multiple of 8. Columns from `vocab` on become 0, in the last row, too.
#[allow(clippy::too_many_arguments)]
pub fn forward_backward(
    cuda: &Cuda,
    vocab: usize,
    logits: View<f32>,
    ld: usize,
    targets: View<u32>,
    scale: f32,
    losses: &mut ViewMut<f32>,
    dlogits: &mut ViewMut<bf16>,
    ld_out: usize,
) -> Result<(), LaunchError> {
    let (grid, columns, ld) = check_logits(vocab, logits, ld, targets, losses)?;
    check_at_least(OP, "pitch of dlogits", ld_out, vocab)?;
    check_multiple(OP, "pitch of dlogits", ld_out, 8)?;
    check(OP, "len of dlogits", dlogits.len(), targets.len().saturating_mul(ld_out))?;
    let ld_out = dimension(OP, "pitch of dlogits", ld_out)?;
    let launch = Launch::new(cuda, &SOURCE, "cross_entropy_forward_backward", grid, THREADS);
    let launch = launch.read(logits).read(targets).write(losses).write(dlogits);
    let launch = launch.value(columns).value(ld).value(ld_out).value(scale);
    // SAFETY: the lengths are checked above; block p touches row p alone.
    Ok(unsafe { launch.run() }?)
}

/// The grid, and vocab and ld as the kernels take them.
fn check_logits(
    vocab: usize,
    logits: View<f32>,
    ld: usize,
    targets: View<u32>,
    losses: &ViewMut<f32>,
) -> Result<([u32; 3], i32, i32), ShapeError> {
    let count = targets.len();
    check_at_least(OP, "columns of a row", vocab, 1)?;
    check_at_least(OP, "pitch of logits", ld, vocab)?;
    let len = if count == 0 { 0 } else { (count - 1).saturating_mul(ld).saturating_add(vocab) };
    check_at_least(OP, "len of logits", logits.len(), len)?;
    check(OP, "len of losses", losses.len(), count)?;
    let grid = [dimension(OP, "positions", count)? as u32, 1, 1];
    Ok((grid, dimension(OP, "vocab", vocab)?, dimension(OP, "pitch of logits", ld)?))
}
