//! Attention's gradients on the GPU: kernels/attention_backward.cu, three launches.

use half::bf16;

use super::super::{Dims, OP, check};
use super::{THREADS, TILE, plan};
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, dimension};

/// The kernels of backward.
pub const SOURCE: Source = Source {
    name: "attention_backward",
    ptx: include_str!("../../../../kernels/ptx/attention_backward.ptx"),
};

/// Elements of a row of o that one thread of `attention_backward_delta` takes.
const CHUNK: usize = 8;

/// Overwrites dq, dk, dv, and delta, which is scratch; o and lse are what [`super::forward`] wrote.
///
/// P and dS are rounded to bf16 before they meet d_o, q and k. `documents` and `max_tokens` are as in forward.
///
/// # Errors
/// Lengths and dimensions that do not fit together; heads other than 64 or 128.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    cuda: &Cuda,
    dims: &Dims,
    cu_seqlens: View<u32>,
    documents: usize,
    max_tokens: usize,
    q: View<bf16>,
    k: View<bf16>,
    v: View<bf16>,
    o: View<bf16>,
    lse: View<f32>,
    d_o: View<bf16>,
    delta: &mut ViewMut<f32>,
    dq: &mut ViewMut<bf16>,
    dk: &mut ViewMut<bf16>,
    dv: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let (sizes, queries) = plan(dims, cu_seqlens, documents, max_tokens)?;
    let (q_len, kv_len) = (max_tokens * dims.q_width(), max_tokens * dims.kv_width());
    let stats_len = max_tokens * dims.heads;
    check(OP, "len of q", q.len(), q_len)?;
    check(OP, "len of k", k.len(), kv_len)?;
    check(OP, "len of v", v.len(), kv_len)?;
    check(OP, "len of o", o.len(), q_len)?;
    check(OP, "len of lse", lse.len(), stats_len)?;
    check(OP, "len of d_o", d_o.len(), q_len)?;
    check(OP, "len of delta", delta.len(), stats_len)?;
    check(OP, "len of dq", dq.len(), q_len)?;
    check(OP, "len of dk", dk.len(), kv_len)?;
    check(OP, "len of dv", dv.len(), kv_len)?;
    // The keys' kernel counts, in `int`, the first row that sees a key up to a tile behind the last.
    let rows = (max_tokens + TILE).saturating_mul(dims.group());
    dimension(OP, "(tokens + 64) * heads / kv_heads", rows)?;
    if queries.contains(&0) {
        return Ok(());
    }
    let keys = [(max_tokens / TILE + documents) as u32, queries[1], 1];
    let blocks = dimension(OP, "blocks of delta", (q_len / CHUNK).div_ceil(THREADS as usize))?;
    let (delta_kernel, keys_kernel, queries_kernel) = match dims.head_dim {
        64 => (
            "attention_backward_delta_64",
            "attention_backward_keys_64",
            "attention_backward_queries_64",
        ),
        _ => (
            "attention_backward_delta_128",
            "attention_backward_keys_128",
            "attention_backward_queries_128",
        ),
    };

    let launch = Launch::new(cuda, &SOURCE, delta_kernel, [blocks as u32, 1, 1], THREADS);
    let launch = launch.read(o).read(d_o).read(cu_seqlens).value(sizes.documents);
    let launch = launch.value(sizes.tokens).value(sizes.heads).write(delta);
    // SAFETY: the lengths are checked above; a thread reads its own 16 bytes below tokens * heads * head_dim.
    unsafe { launch.run() }?;

    let launch = |kernel, grid| {
        let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS);
        let launch = launch.shared(shared_bytes(dims.head_dim)).read(q).read(k).read(v).read(lse);
        let launch = launch.read(d_o).read(delta.as_view()).read(cu_seqlens);
        let launch = launch.value(sizes.documents).value(sizes.tokens).value(sizes.heads);
        launch.value(sizes.kv_heads).value(dims.scale).value(sizes.window)
    };
    let launch_keys = launch(keys_kernel, keys).write(dk).write(dv);
    // SAFETY: the lengths are checked above; the kernel takes no row from cu_seqlens beyond `tokens`, and each
    // block writes the keys of its own tile.
    unsafe { launch_keys.run() }?;
    let launch_queries = launch(queries_kernel, queries).write(dq);
    // SAFETY: as above, with the rows of its own tile.
    Ok(unsafe { launch_queries.run() }?)
}

/// Shared memory of a block (struct Shared in attention_backward.cu): six tiles, and lse and delta of two.
fn shared_bytes(head_dim: usize) -> u32 {
    (6 * TILE * head_dim * size_of::<bf16>() + 4 * TILE * size_of::<f32>()) as u32
}
