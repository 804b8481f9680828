//! The CPU path: queries by blocks, keys by tiles; forward, backward and the cache.

mod backward;
mod bf16;
mod cache;
mod forward;
mod mask;
mod product;
mod tile;

pub use backward::backward;
pub use cache::{append, decode};
pub use forward::forward;
pub use tile::KEYS;

use crate::device::cpu::{Cpu, Element};

use super::{Dims, OP, check, check_at_least, check_documents};

/// See [`super::reserved_bytes`].
pub fn reserved_bytes<E: Element>(cpu: &Cpu, dims: &Dims, tokens: usize) -> usize {
    if bf16::takes::<E>(cpu.level, dims) { bf16::reserved_bytes(dims, tokens) } else { 0 }
}

/// Grows every thread's scratch to what attention of these dimensions needs, and the calling thread's
/// to what the backward pass of `tokens` tokens needs (0: there is none).
pub fn reserve<E: Element>(cpu: &Cpu, dims: &Dims, tokens: usize) {
    if bf16::takes::<E>(cpu.level, dims) {
        cpu.broadcast(|| bf16::reserve(cpu.level, dims));
        if tokens > 0 {
            bf16::reserve_backward(cpu, dims, tokens);
        }
    } else {
        cpu.broadcast(|| tile::reserve(dims.block_q() * dims.group(), dims.head_dim));
    }
}
