//! Attention on the GPU: kernels/attention.cu. The functions are those of the CPU, for bf16 and heads of
//! 64 or 128, with a window or without; probabilities are rounded to bf16 before they meet v.
//!
//! `cu_seqlens` lies on the device, so nothing here looks at it. Its first `documents + 1` elements count; a plan
//! made before the documents are known passes the most there can be, and the caller repeats the last
//! element behind them: empty documents cost a block that leaves at once. `max_tokens` is how many rows the packed
//! buffers have. Rows behind the last document are neither read nor written.

mod backward;

pub use backward::{SOURCE as BACKWARD_SOURCE, backward};

use half::bf16;

use super::{Dims, OP, check, check_at_least};
use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, ShapeError, Want, dimension};

/// The kernels of forward and of the cache.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/attention.ptx") };

/// Rows of a tile (TILE in kernels/common/attention.cuh).
const TILE: usize = 64;
/// Threads of a block (THREADS in attention.cu).
const THREADS: u32 = 128;
/// Threads of a block of `attention_append`.
const APPEND_THREADS: usize = 256;

/// The window of a model that has none (NO_WINDOW in kernels/common/attention.cuh).
const NO_WINDOW: i32 = i32::MAX;

/// Dimensions as the kernels take them.
struct Sizes {
    documents: i32,
    tokens: i32,
    heads: i32,
    kv_heads: i32,
    window: i32,
}

impl Dims {
    /// Dimensions that there are kernels for: heads of 64 or 128.
    fn check_cuda(&self) -> Result<(), ShapeError> {
        self.check()?;
        match self.head_dim {
            64 | 128 => Ok(()),
            got => Err(ShapeError { op: OP, what: "head_dim", got, want: Want::Either(64, 128) }),
        }
    }
}

/// Checks cu_seqlens and the sizes; gives them, and the grid of one block per tile of rows and key head.
fn plan(
    dims: &Dims,
    cu_seqlens: View<u32>,
    documents: usize,
    tokens: usize,
) -> Result<(Sizes, [u32; 3]), ShapeError> {
    dims.check_cuda()?;
    check_at_least(OP, "len of cu_seqlens", cu_seqlens.len(), documents + 1)?;
    let rows = tokens.saturating_mul(dims.group());
    // Kernels count slots and rows in `int`: their sum is checked, so each of them is.
    dimension(OP, "tokens * heads / kv_heads + documents", rows.saturating_add(documents))?;
    let sizes = Sizes {
        documents: dimension(OP, "documents", documents)?,
        tokens: dimension(OP, "max_tokens", tokens)?,
        heads: dimension(OP, "heads", dims.heads)?,
        kv_heads: dimension(OP, "kv_heads", dims.kv_heads)?,
        // No document is as long as what does not fit.
        window: dims.window.map_or(NO_WINDOW, |keys| i32::try_from(keys).unwrap_or(NO_WINDOW)),
    };
    let slots = if rows == 0 || documents == 0 { 0 } else { rows / TILE + documents };
    Ok((sizes, [slots as u32, dims.kv_heads as u32, 1]))
}

/// Overwrites o and lse.
///
/// # Errors
/// Lengths and dimensions that do not fit together; heads other than 64 or 128.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    cuda: &Cuda,
    dims: &Dims,
    cu_seqlens: View<u32>,
    documents: usize,
    max_tokens: usize,
    q: View<bf16>,
    k: View<bf16>,
    v: View<bf16>,
    o: &mut ViewMut<bf16>,
    lse: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let (sizes, grid) = plan(dims, cu_seqlens, documents, max_tokens)?;
    check(OP, "len of q", q.len(), max_tokens * dims.q_width())?;
    check(OP, "len of k", k.len(), max_tokens * dims.kv_width())?;
    check(OP, "len of v", v.len(), max_tokens * dims.kv_width())?;
    check(OP, "len of o", o.len(), max_tokens * dims.q_width())?;
    check(OP, "len of lse", lse.len(), max_tokens * dims.heads)?;
    let kernel = match dims.head_dim {
        64 => "attention_forward_64",
        _ => "attention_forward_128",
    };
    let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS);
    let launch = launch.read(q).read(k).read(v).read(cu_seqlens);
    let launch = launch.value(sizes.documents).value(sizes.tokens).value(sizes.heads);
    let launch = launch.value(sizes.kv_heads).value(dims.scale).value(sizes.window);
    let launch = launch.write(o).write(lse);
    // SAFETY: the lengths are checked above; the kernel takes no row from cu_seqlens beyond `tokens`, and each
    // block writes rows of its own tile.
    Ok(unsafe { launch.run() }?)
}

/// Copies each row's new keys and values behind the `cache_len[b]` tokens it has. `rows` is how many
/// sequences the caches hold, `max_tokens` how many rows k_new and v_new have.
///
/// A token that the capacity does not hold is left out: lens lie on the device, the caller counts.
///
/// # Errors
/// Lengths and dimensions that do not fit together; heads other than 64 or 128.
#[allow(clippy::too_many_arguments)]
pub fn append(
    cuda: &Cuda,
    dims: &Dims,
    cu_seqlens_new: View<u32>,
    rows: usize,
    max_tokens: usize,
    cache_len: View<u32>,
    capacity: usize,
    k_new: View<bf16>,
    v_new: View<bf16>,
    k_cache: &mut ViewMut<bf16>,
    v_cache: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let (sizes, _) = plan(dims, cu_seqlens_new, rows, max_tokens)?;
    let width = dims.kv_width();
    check(OP, "len of cache_len", cache_len.len(), rows)?;
    check(OP, "len of k_new", k_new.len(), max_tokens * width)?;
    check(OP, "len of v_new", v_new.len(), max_tokens * width)?;
    check(OP, "len of k_cache", k_cache.len(), rows * capacity * width)?;
    check(OP, "len of v_cache", v_cache.len(), rows * capacity * width)?;
    let (capacity, int_width) =
        (dimension(OP, "capacity", capacity)?, dimension(OP, "kv_heads * head_dim", width)?);
    let blocks = (max_tokens * (width / 8)).div_ceil(APPEND_THREADS);
    let blocks = if rows == 0 { 0 } else { dimension(OP, "blocks of append", blocks)? as u32 };
    let launch =
        Launch::new(cuda, &SOURCE, "attention_append", [blocks, 1, 1], APPEND_THREADS as u32);
    let launch = launch.read(k_new).read(v_new).read(cu_seqlens_new).read(cache_len);
    let launch = launch.value(sizes.documents).value(sizes.tokens).value(capacity);
    let launch = launch.value(int_width).write(k_cache).write(v_cache);
    // SAFETY: the lengths are checked above; the kernel writes at places below `capacity` of the rows there are.
    Ok(unsafe { launch.run() }?)
}

/// Overwrites o: attention of new queries over the cache, prefill and decode alike.
///
/// `total_len[b]` counts row b's tokens after [`append`]. A row whose total is below its number of new tokens or
/// above the capacity gets NaN: totals lie on the device, nothing here can look at them.
///
/// # Errors
/// Lengths and dimensions that do not fit together; heads other than 64 or 128.
#[allow(clippy::too_many_arguments)]
pub fn decode(
    cuda: &Cuda,
    dims: &Dims,
    cu_seqlens_new: View<u32>,
    rows: usize,
    max_tokens: usize,
    total_len: View<u32>,
    capacity: usize,
    q: View<bf16>,
    k_cache: View<bf16>,
    v_cache: View<bf16>,
    o: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let (sizes, grid) = plan(dims, cu_seqlens_new, rows, max_tokens)?;
    check(OP, "len of total_len", total_len.len(), rows)?;
    check(OP, "len of q", q.len(), max_tokens * dims.q_width())?;
    check(OP, "len of k_cache", k_cache.len(), rows * capacity * dims.kv_width())?;
    check(OP, "len of v_cache", v_cache.len(), rows * capacity * dims.kv_width())?;
    check(OP, "len of o", o.len(), max_tokens * dims.q_width())?;
    let capacity = dimension(OP, "capacity", capacity)?;
    let kernel = match dims.head_dim {
        64 => "attention_decode_64",
        _ => "attention_decode_128",
    };
    let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS);
    let launch = launch.read(q).read(k_cache).read(v_cache).read(cu_seqlens_new).read(total_len);
    let launch = launch.value(sizes.documents).value(sizes.tokens).value(capacity);
    let launch = launch.value(sizes.heads).value(sizes.kv_heads).value(dims.scale);
    let launch = launch.value(sizes.window).write(o);
    // SAFETY: the lengths are checked above; the kernel takes no row from cu_seqlens beyond `tokens`, no key
    // beyond `capacity`, and each block writes rows of its own tile.
    Ok(unsafe { launch.run() }?)
}
