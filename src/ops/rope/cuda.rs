//! RoPE on the GPU: kernels/rope.cu. Shapes and rounding as in the op's own page.
//!
//! Positions lie on the device, so they are not checked here: whoever uploads them does. One beyond the
//! tables makes its token's rows NaN.

use std::sync::Arc;

use half::bf16;

use super::{OP, check_shapes};
use crate::device::cuda::{Buf, Cuda, CudaError, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, dimension};

/// The kernels of this op.
pub const SOURCE: Source = Source { name: OP, ptx: include_str!("../../../kernels/ptx/rope.ptx") };

/// Threads of a block (THREADS in rope.cu).
const THREADS: u32 = 256;

/// [`super::Tables`] on the device.
pub struct Tables {
    head_dim: usize,
    max_positions: usize,
    cos: Buf<f32>,
    sin: Buf<f32>,
}

impl Tables {
    /// Uploads the tables.
    pub fn new(cuda: &Arc<Cuda>, tables: &super::Tables) -> Result<Self, CudaError> {
        let super::Tables { head_dim, max_positions, cos, sin } = tables;
        let (cos, sin) = (cuda.upload(cos)?, cuda.upload(sin)?);
        Ok(Self { head_dim: *head_dim, max_positions: *max_positions, cos, sin })
    }

    /// Positions 0 .. this are in the tables.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }
}

/// Rotates q and k.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    cuda: &Cuda,
    tables: &Tables,
    position_ids: View<u32>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    q: &mut ViewMut<bf16>,
    k: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    rotate(cuda, "rope_forward", tables, position_ids, [heads, kv_heads, head_dim], q, k)
}

/// Rotates dq and dk back: the gradients before the rotation.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    cuda: &Cuda,
    tables: &Tables,
    position_ids: View<u32>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    dq: &mut ViewMut<bf16>,
    dk: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    rotate(cuda, "rope_backward", tables, position_ids, [heads, kv_heads, head_dim], dq, dk)
}

fn rotate(
    cuda: &Cuda,
    kernel: &'static str,
    tables: &Tables,
    position_ids: View<u32>,
    [heads, kv_heads, head_dim]: [usize; 3],
    q: &mut ViewMut<bf16>,
    k: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let tokens = position_ids.len();
    check_shapes(tables.head_dim, tokens, heads, kv_heads, head_dim, q.len(), k.len())?;
    dimension(OP, "columns of q and k", (heads + kv_heads) * head_dim)?;
    let positions = dimension(OP, "positions of the tables", tables.max_positions)?;
    let grid = [dimension(OP, "tokens", tokens)? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS);
    let launch = launch.read(position_ids).read(tables.cos.view()).read(tables.sin.view());
    let launch = launch.write(q).write(k).value(positions);
    let launch = launch.value(heads as i32).value(kv_heads as i32).value(head_dim as i32 / 2);
    // SAFETY: the lengths are checked above; block t touches row t of q and of k, and of the tables a row
    // that it has compared with `positions`.
    Ok(unsafe { launch.run() }?)
}
