//! The key/value cache: appending new tokens, and attention of new queries over it.
//!
//! A cache is `[rows, capacity, kv_heads * head_dim]`; row b holds its first `len[b]` tokens. New
//! tokens come packed, `cu_seqlens_new` saying which belong to which row; a row may have none.

use super::forward::{Queries, attend_blocks};
use super::{Dims, OP, check, check_at_least, check_documents};
use crate::device::cpu::{Cpu, Element, chunks_mut, numbers};
use crate::ops::ShapeError;

/// Copies each row's new keys and values behind the `cache_len[b]` tokens it has.
#[allow(clippy::too_many_arguments)]
pub fn append<E: Element>(
    cpu: &Cpu,
    dims: &Dims,
    cu_seqlens_new: &[u32],
    cache_len: &[u32],
    capacity: usize,
    k_new: &[E],
    v_new: &[E],
    k_cache: &mut [E],
    v_cache: &mut [E],
) -> Result<(), ShapeError> {
    dims.check()?;
    let (rows, tokens) = check_documents(cu_seqlens_new)?;
    let width = dims.kv_width();
    check(OP, "len of cache_len", cache_len.len(), rows)?;
    check(OP, "len of k_new", k_new.len(), tokens * width)?;
    check(OP, "len of v_new", v_new.len(), tokens * width)?;
    check(OP, "len of k_cache", k_cache.len(), rows * capacity * width)?;
    check(OP, "len of v_cache", v_cache.len(), rows * capacity * width)?;
    for (new, &len) in cu_seqlens_new.windows(2).zip(cache_len) {
        let total = len as usize + (new[1] - new[0]) as usize;
        check_at_least(OP, "capacity", capacity, total)?;
    }
    if tokens == 0 {
        return Ok(());
    }
    let keys = chunks_mut(k_cache, capacity * width);
    let values = chunks_mut(v_cache, capacity * width);
    cpu.blocks((numbers(rows), keys, values), |(b, k, v)| {
        let src = cu_seqlens_new[b] as usize * width..cu_seqlens_new[b + 1] as usize * width;
        let at = cache_len[b] as usize * width;
        k[at..][..src.len()].copy_from_slice(&k_new[src.clone()]);
        v[at..][..src.len()].copy_from_slice(&v_new[src]);
    });
    Ok(())
}

/// Attention of new queries over the cache, prefill and decode alike.
///
/// `total_len[b]` counts row b's tokens after `append`. Query j of its n new ones sits at position
/// total_len - n + j and sees the cache up to itself, so that a prefill followed by single tokens
/// gives what `forward` gives on the whole document.
#[allow(clippy::too_many_arguments)]
pub fn decode<E: Element>(
    cpu: &Cpu,
    dims: &Dims,
    cu_seqlens_new: &[u32],
    total_len: &[u32],
    capacity: usize,
    q: &[E],
    k_cache: &[E],
    v_cache: &[E],
    o: &mut [E],
) -> Result<(), ShapeError> {
    dims.check()?;
    let (rows, tokens) = check_documents(cu_seqlens_new)?;
    let (qw, kw) = (dims.q_width(), dims.kv_width());
    check(OP, "len of total_len", total_len.len(), rows)?;
    check(OP, "len of q", q.len(), tokens * qw)?;
    check(OP, "len of k_cache", k_cache.len(), rows * capacity * kw)?;
    check(OP, "len of v_cache", v_cache.len(), rows * capacity * kw)?;
    check(OP, "len of o", o.len(), tokens * qw)?;
    for (new, &total) in cu_seqlens_new.windows(2).zip(total_len) {
        let (new, total) = ((new[1] - new[0]) as usize, total as usize);
        check_at_least(OP, "capacity", capacity, total)?;
        check_at_least(OP, "total_len", total, new)?;
    }
    attend_blocks(cpu, dims, cu_seqlens_new, (o, None), |block| {
        let total = total_len[block.document] as usize;
        let cache = block.document * capacity * kw..;
        Queries {
            q: &q[block.begin * qw..block.end * qw],
            position: total - (block.stop - block.begin),
            k: &k_cache[cache.clone()][..total * kw],
            v: &v_cache[cache][..total * kw],
        }
    });
    Ok(())
}
