//! attention: causal, grouped-query softmax attention over packed documents, in flash form.
//!
//! ```text
//! s[t,u] = scale * q[t]·k[u]                 for u ≤ t in the same document, and u > t - window
//! o[t]   = Σ_u exp(s[t,u] - lse[t]) v[u]     lse[t] = ln Σ_u exp(s[t,u])
//! ```
//!
//! Query head h reads key/value head h / (heads / kv_heads).
//!
//! Shapes: q, o, dq, d_o `[T, heads * head_dim]`; k, v, dk, dv `[T, kv_heads * head_dim]`;
//! lse, delta `[T, heads]` f32. T tokens are the documents one after another; document d is rows
//! `cu_seqlens[d]..cu_seqlens[d + 1]`, and may be empty.
//!
//! Dtypes: q, k, v, o and the gradients are `E` (f32 or bf16); statistics are f32.
//!
//! Two paths on the CPU. With bf16 tensors, a head_dim that is a multiple of 16, and an instruction set
//! that has bf16 dot products, operands of products are bf16 and sums f32: P and dS are rounded to bf16 for
//! the products they are operands of, while the sum under P is taken of P as it was before. Else everything
//! is f32, tensors of bf16 being widened. Forward, backward and decode of one device take the same path.
//!
//! Backward, with P = exp(s - lse) and delta[t] = d_o[t]·o[t]:
//!
//! ```text
//! dv[u] = Σ_t P[t,u] d_o[t]          dS[t,u] = P[t,u] (d_o[t]·v[u] - delta[t])
//! dq[t] = scale Σ_u dS[t,u] k[u]     dk[u]   = scale Σ_t dS[t,u] q[t]
//! ```
//!
//! Memory: tiles of at most a few hundred queries by 64 or 256 keys; never a T × T matrix. Each thread
//! keeps one scratch buffer that grows to the largest head_dim and group it has met. With bf16 products the
//! thread that calls `backward` also keeps sums of dq, dk and dv in f32, for documents of several blocks of b
//! tokens (768 / group in 64..=256, in whole 32s). For up to T > b tokens these are
//!
//! ```text
//! 2 ⌈T / b⌉ · b · (heads + 2 kv_heads) · w · 4 bytes      w: head_dim in whole 32s
//! ```
//!
//! (16 MB for T = 2048, 9 heads and 3 kv_heads of 64), outside the caller's buffers: [`reserve`] makes them,
//! [`reserved_bytes`] counts them.
//!
//! With a window, tiles that no query of theirs sees are skipped: work grows with T·window.
//!
//! Determinism: tiles are cut relative to the start of a document, and sums have one order, so the bits
//! depend neither on the number of threads nor on what else is packed. A NaN or infinity stays inside its
//! document; inside, it may reach queries of the same tile that don't see it (0 · ∞ where P is masked).
//!
//! Source: Dao 2023 (arXiv 2307.08691), algorithms 1 and 2. Its backward is one pass of five products that
//! adds to dq from several key blocks. The f32 path takes two (dq by query blocks, dk and dv by key blocks),
//! which costs two more products and needs neither atomics nor a copy of dq. The bf16 path takes the five,
//! one diagonal of blocks after the other: blocks of a diagonal share neither queries nor keys.

mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;

pub use cpu::{append, backward, decode, forward};

use super::{ShapeError, check, check_at_least, rows};
use crate::device::cpu::{Cpu, Element};

const OP: &str = "attention";

/// Heads and the factor on the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dims {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Usually 1/sqrt(head_dim).
    pub scale: f32,
    /// A query sees so many latest keys, its own included (sliding window, arXiv 2310.06825); `None`: all.
    pub window: Option<usize>,
}

/// Grows every thread's scratch to what attention of `E` with these dimensions needs, so that none
/// grows it later; the calling thread's also to what backward of up to `tokens` tokens needs, if it is
/// to be called from there (0: it is not).
pub fn reserve<E: Element>(cpu: &Cpu, dims: &Dims, tokens: usize) -> Result<(), ShapeError> {
    dims.check()?;
    cpu::reserve::<E>(cpu, dims, tokens);
    Ok(())
}

/// Bytes of the sums that [`reserve`] makes the calling thread keep for backward of up to `tokens` tokens.
pub fn reserved_bytes<E: Element>(cpu: &Cpu, dims: &Dims, tokens: usize) -> usize {
    cpu::reserved_bytes::<E>(cpu, dims, tokens)
}

impl Dims {
    /// Query heads per key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements in one row of q or o.
    pub fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements in one row of k or v.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// The most keys that a query sees, its own included.
    fn reach(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    /// The position of the first key that the query at `position` sees.
    fn first_key(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.reach())
    }

    /// Queries in one block: with their heads of one group they make some 200 rows of a tile.
    fn block_q(&self) -> usize {
        (256 / self.group()).clamp(8, cpu::KEYS)
    }

    fn check(&self) -> Result<(), ShapeError> {
        check_at_least(OP, "head_dim", self.head_dim, 1)?;
        check_at_least(OP, "kv_heads", self.kv_heads, 1)?;
        check_at_least(OP, "heads", self.heads, 1)?;
        check_at_least(OP, "window", self.window.unwrap_or(1), 1)?;
        rows(OP, "heads", self.heads, self.kv_heads).map(drop)
    }
}

/// Checks that `cu_seqlens` begins at 0 and never falls; gives (documents, tokens).
fn check_documents(cu_seqlens: &[u32]) -> Result<(usize, usize), ShapeError> {
    check_at_least(OP, "len of cu_seqlens", cu_seqlens.len(), 1)?;
    check(OP, "cu_seqlens[0]", cu_seqlens[0] as usize, 0)?;
    for pair in cu_seqlens.windows(2) {
        let (start, end) = (pair[0] as usize, pair[1] as usize);
        check_at_least(OP, "end of a document in cu_seqlens", end, start)?;
    }
    Ok((cu_seqlens.len() - 1, cu_seqlens[cu_seqlens.len() - 1] as usize))
}
