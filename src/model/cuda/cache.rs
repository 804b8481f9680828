//! Keys and values on a GPU.

use std::sync::Arc;

use half::bf16;

use super::needs::{self, Needs};
use super::{Gpu, GpuError};
use crate::device::cuda::{Buf, Cuda};
use crate::model::config::LlamaConfig;

/// The keys and values of a [`KvCache`](crate::model::kv_cache::KvCache).
pub struct GpuCache {
    cuda: Arc<Cuda>,
    pub(super) rows: usize,
    pub(super) capacity: usize,
    /// Per layer, `[rows, capacity, kv_heads * head_dim]`.
    pub(super) k: Vec<Buf<bf16>>,
    pub(super) v: Vec<Buf<bf16>>,
}

impl GpuCache {
    /// Allocates an empty cache.
    pub fn new(
        gpu: &Gpu,
        config: &LlamaConfig,
        rows: usize,
        capacity: usize,
    ) -> Result<Self, GpuError> {
        let cuda = gpu.cuda().clone();
        let kv_cache = needs::kv_bytes(config, rows * capacity);
        let needs = Needs { kv_cache, others: cuda.used(), ..Needs::default() };
        needs.check_alone(cuda.limit())?;
        let len = rows * capacity * config.num_key_value_heads * config.head_dim;
        let layers = || (0..config.num_hidden_layers).map(|_| cuda.alloc(len)).collect();
        let (k, v): (Result<_, _>, Result<_, _>) = (layers(), layers());
        Ok(Self { rows, capacity, k: k?, v: v?, cuda })
    }

    /// Copies the first `len` tokens of row 0 into every other row.
    pub fn share_first_row(&mut self, len: usize) -> Result<(), GpuError> {
        for cache in self.k.iter_mut().chain(&mut self.v) {
            let row = cache.len() / self.rows;
            let used = row / self.capacity * len;
            let (first, mut rest) = cache.view_mut().split_at(row);
            while !rest.is_empty() {
                let (mut other, others) = rest.split_at(row);
                let to = &mut other.reborrow().slice(0..used);
                self.cuda.copy(to, first.as_view().slice(0..used))?;
                rest = others;
            }
        }
        Ok(())
    }
}
