//! Keys and values of the tokens that each row of a generation has seen.

#[cfg(feature = "cuda")]
use super::cuda::{GpuCache, GpuError};
use super::engine::EngineError;
use super::loaded::Loaded;
use crate::device::cpu::{Cpu, Element};
use crate::ops::{ShapeError, attention};

/// One cache for `rows` sequences of at most `capacity` tokens, on the device that runs the model.
pub struct KvCache<E> {
    rows: usize,
    capacity: usize,
    store: Store<E>,
    /// Tokens in the cache, per row, before the run in progress.
    lens: Vec<u32>,
    /// As `lens`, after it.
    totals: Vec<u32>,
}

/// Where keys and values lie.
enum Store<E> {
    /// Per layer, `[rows, capacity, kv_heads * head_dim]`.
    Cpu { k: Vec<Vec<E>>, v: Vec<Vec<E>> },
    #[cfg(feature = "cuda")]
    Cuda(GpuCache),
}

impl<E: Element> KvCache<E> {
    /// Allocates an empty cache.
    pub fn new(model: &Loaded, rows: usize, capacity: usize) -> Result<Self, EngineError> {
        let config = &model.weights.config;
        let len = rows * capacity * config.num_key_value_heads * config.head_dim;
        let layers =
            || (0..config.num_hidden_layers).map(|_| vec![E::from_f32(0.0); len]).collect();
        let store = || Store::Cpu { k: layers(), v: layers() };
        #[cfg(feature = "cuda")]
        let store = match &model.gpu {
            Some(gpu) => Store::Cuda(GpuCache::new(gpu, config, rows, capacity)?),
            None => store(),
        };
        #[cfg(not(feature = "cuda"))]
        let store = store();
        Ok(Self { rows, capacity, store, lens: vec![0; rows], totals: vec![0; rows] })
    }

    /// Number of sequences.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Most tokens of a sequence.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Tokens in each row.
    pub fn lens(&self) -> &[u32] {
        &self.lens
    }

    /// Forgets all but the first `len` tokens of a row, which stay for another sequence.
    pub fn truncate(&mut self, row: usize, len: u32) {
        self.lens[row] = self.lens[row].min(len);
    }

    /// Gives every row the tokens of row 0.
    pub fn share_first_row(&mut self) -> Result<(), EngineError> {
        let Some(&len) = self.lens.first() else { return Ok(()) };
        match &mut self.store {
            Store::Cpu { k, v } => {
                for cache in k.iter_mut().chain(v) {
                    let row = cache.len() / self.rows;
                    let used = row / self.capacity * len as usize;
                    let (first, rest) = cache.split_at_mut(row);
                    for other in rest.chunks_exact_mut(row) {
                        other[..used].copy_from_slice(&first[..used]);
                    }
                }
            }
            #[cfg(feature = "cuda")]
            Store::Cuda(cache) => cache.share_first_row(len as usize)?,
        }
        self.lens.fill(len);
        Ok(())
    }

    /// The cache as a GPU's program takes it: with each row's tokens before the run.
    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(&mut self) -> Result<(&mut GpuCache, &[u32]), EngineError> {
        match &mut self.store {
            Store::Cuda(cache) => Ok((cache, &self.lens)),
            Store::Cpu { .. } => Err(GpuError::HostCache.into()),
        }
    }

    /// Counts the tokens of a finished run (`cu_seqlens` over all rows).
    pub fn advance(&mut self, cu_seqlens: &[u32]) {
        for (len, pair) in self.lens.iter_mut().zip(cu_seqlens.windows(2)) {
            *len += pair[1] - pair[0];
        }
    }

    /// Appends a layer's new keys and values and attends to all that the layer has seen.
    /// `cu_seqlens` has one entry more than there are rows; a row without new tokens is idle.
    #[allow(clippy::too_many_arguments)]
    pub fn attend(
        &mut self,
        cpu: &Cpu,
        dims: &attention::Dims,
        layer: usize,
        cu_seqlens: &[u32],
        q: &[E],
        k: &[E],
        v: &[E],
        o: &mut [E],
    ) -> Result<(), ShapeError> {
        crate::ops::check("attention::decode", "rows", cu_seqlens.len(), self.rows + 1)?;
        for ((total, len), pair) in
            self.totals.iter_mut().zip(&self.lens).zip(cu_seqlens.windows(2))
        {
            *total = len + (pair[1] - pair[0]);
        }
        let (k_cache, v_cache) = match &mut self.store {
            Store::Cpu { k, v } => (&mut k[layer], &mut v[layer]),
            #[cfg(feature = "cuda")]
            Store::Cuda(_) => {
                return crate::ops::check_at_least(
                    "attention::decode",
                    "KV caches in memory",
                    0,
                    1,
                );
            }
        };
        attention::append(
            cpu,
            dims,
            cu_seqlens,
            &self.lens,
            self.capacity,
            k,
            v,
            k_cache,
            v_cache,
        )?;
        attention::decode(
            cpu,
            dims,
            cu_seqlens,
            &self.totals,
            self.capacity,
            q,
            k_cache,
            v_cache,
            o,
        )
    }
}
