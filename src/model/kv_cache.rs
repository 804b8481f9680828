//! Keys and values of the tokens that each row of a generation has seen.

use super::config::LlamaConfig;
use crate::device::cpu::{Cpu, Element};
use crate::ops::{ShapeError, attention};

/// One cache for `rows` sequences of at most `capacity` tokens.
pub struct KvCache<E> {
    rows: usize,
    capacity: usize,
    /// Per layer, `[rows, capacity, kv_heads * head_dim]`.
    k: Vec<Vec<E>>,
    v: Vec<Vec<E>>,
    /// Tokens in the cache, per row, before the run in progress.
    lens: Vec<u32>,
    /// As `lens`, after it.
    totals: Vec<u32>,
}

impl<E: Element> KvCache<E> {
    /// Allocates an empty cache.
    pub fn new(config: &LlamaConfig, rows: usize, capacity: usize) -> Self {
        let width = config.num_key_value_heads * config.head_dim;
        let layer = || vec![E::from_f32(0.0); rows * capacity * width];
        Self {
            rows,
            capacity,
            k: (0..config.num_hidden_layers).map(|_| layer()).collect(),
            v: (0..config.num_hidden_layers).map(|_| layer()).collect(),
            lens: vec![0; rows],
            totals: vec![0; rows],
        }
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
    pub fn share_first_row(&mut self) {
        if self.rows == 0 {
            return;
        }
        let Self { rows, capacity, k, v, lens, .. } = self;
        for cache in k.iter_mut().chain(v) {
            let row = cache.len() / *rows;
            let used = row / *capacity * lens[0] as usize;
            let (first, rest) = cache.split_at_mut(row);
            for other in rest.chunks_exact_mut(row) {
                other[..used].copy_from_slice(&first[..used]);
            }
        }
        let len = lens[0];
        lens.fill(len);
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
        let (k_cache, v_cache) = (&mut self.k[layer], &mut self.v[layer]);
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
