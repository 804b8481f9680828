//! The blocks of the backward pass, and the sums that documents of several blocks have between its tasks.

use std::cell::RefCell;

use super::{Dims, NR, padded};

thread_local! {
    /// Sums of documents of several blocks, between tasks: the calling thread's.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Tokens of a block.
pub fn block_len(dims: &Dims) -> usize {
    (768 / dims.group()).clamp(64, 256) / NR * NR
}

/// Elements of the sums of dq, and of dk and dv, of one block and key head.
pub fn sums(dims: &Dims, tokens: usize) -> (usize, usize) {
    let width = padded(dims.head_dim);
    ((tokens * dims.group()).next_multiple_of(NR) * width, 2 * tokens * width)
}

/// Bytes of the calling thread's sums.
pub fn reserved_bytes(dims: &Dims, tokens: usize) -> usize {
    let (queries, keys) = sums(dims, block_len(dims));
    most_slots(dims, tokens) * (queries + keys) * size_of::<f32>()
}

/// The most blocks, of each key head, that documents of several blocks have in `tokens` tokens together.
pub fn most_slots(dims: &Dims, tokens: usize) -> usize {
    let size = block_len(dims);
    // A document of n > 1 blocks has more than n - 1 times their length.
    if tokens > size { 2 * tokens.div_ceil(size) * dims.kv_heads } else { 0 }
}

/// Lends the sums of `count` blocks: dq's, dk's and dv's.
pub fn with_sums(count: usize, dims: &Dims, f: impl FnOnce(&mut [f32], &mut [f32])) {
    let (queries, keys) = sums(dims, block_len(dims));
    SUMS.with_borrow_mut(|sums| {
        let len = count * (queries + keys);
        if sums.len() < len {
            // Fresh from the system: pages that no document is long enough for are never touched.
            *sums = Vec::new();
            *sums = vec![0.0; len];
        }
        let (queries, keys) = sums[..len].split_at_mut(count * queries);
        f(queries, keys);
    });
}
