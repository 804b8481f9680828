//! A batch on the device: every index that a run reads, checked on the host, uploaded in one copy.

use std::sync::Arc;

use crate::device::cuda::{Buf, Cuda, CudaError, View};
use crate::model::config::LlamaConfig;
use crate::model::engine::Inputs;
use crate::model::llama::Kind;
use crate::ops::{ShapeError, check, check_all_below, check_at_least};

/// The lists of a batch.
#[derive(Clone, Copy)]
enum List {
    Tokens,
    PositionIds,
    CuSeqlens,
    Positions,
    Targets,
    CacheLens,
    CacheTotals,
}

/// How many lists there are.
const LISTS: usize = 7;

/// One buffer for all lists, each at a place of its own that does not change from run to run.
pub struct Batch {
    device: Buf<u32>,
    host: Vec<u32>,
    /// First element of each list, and the end.
    starts: [usize; LISTS + 1],
    /// Elements of each list in the last batch.
    lens: [usize; LISTS],
}

/// What a place that holds nothing holds: no token, no row.
const NOTHING: u32 = u32::MAX;

impl Batch {
    /// Elements of all lists of a program.
    pub fn elements(kind: Kind) -> usize {
        Self::starts(kind)[LISTS]
    }

    /// Room for the batches of a program.
    pub fn new(cuda: &Arc<Cuda>, kind: Kind) -> Result<Self, CudaError> {
        let starts = Self::starts(kind);
        let elements = starts[LISTS];
        let (device, host) = (cuda.alloc(elements)?, vec![NOTHING; elements]);
        Ok(Self { device, host, starts, lens: [0; LISTS] })
    }

    fn starts(kind: Kind) -> [usize; LISTS + 1] {
        let (tokens, rows) = (kind.tokens(), kind.rows());
        let mut starts = [0; LISTS + 1];
        let rooms = [tokens, tokens, tokens + 1, rows, rows, tokens, tokens];
        for (i, room) in rooms.into_iter().enumerate() {
            // Every list begins as an allocation of its own would, for 16-byte loads.
            starts[i + 1] = (starts[i] + room).next_multiple_of(4);
        }
        starts
    }

    fn list(&self, list: List) -> View<'_, u32> {
        let start = self.starts[list as usize];
        self.device.view().slice(start..start + self.lens[list as usize])
    }

    fn set(&mut self, list: List, values: impl IntoIterator<Item = u32>) -> Result<(), ShapeError> {
        let (start, end) = (self.starts[list as usize], self.starts[list as usize + 1]);
        let mut len = 0;
        for value in values {
            check_at_least("batch", "room for a list", end - start, len + 1)?;
            self.host[start + len] = value;
            len += 1;
        }
        self.host[start + len..end].fill(NOTHING);
        self.lens[list as usize] = len;
        Ok(())
    }

    /// Takes a batch, and the tokens that each row of the cache has. Kernels never look at what they are given,
    /// so everything is checked here, as the CPU's ops do.
    pub fn set_all(
        &mut self,
        config: &LlamaConfig,
        inputs: &Inputs<'_>,
        kind: Kind,
        cache: Option<(usize, &[u32])>,
    ) -> Result<(), ShapeError> {
        let n = inputs.tokens.len();
        check_all_below("embedding", "token id", inputs.tokens, config.vocab_size)?;
        check("rope", "positions", inputs.position_ids.len(), n)?;
        let positions = config.max_position_embeddings;
        check_all_below("rope", "position", inputs.position_ids, positions)?;
        check_at_least("attention", "len of cu_seqlens", inputs.cu_seqlens.len(), 1)?;
        check("attention", "cu_seqlens[0]", inputs.cu_seqlens[0] as usize, 0)?;
        for pair in inputs.cu_seqlens.windows(2) {
            let (start, end) = (pair[0] as usize, pair[1] as usize);
            check_at_least("attention", "end of a document in cu_seqlens", end, start)?;
        }
        let end = inputs.cu_seqlens[inputs.cu_seqlens.len() - 1] as usize;
        check("attention", "tokens in cu_seqlens", end, n)?;
        check_all_below("gather", "loss position", inputs.positions, n)?;
        if !matches!(kind, Kind::Generate { .. }) {
            check("loss", "number of targets", inputs.targets.len(), inputs.positions.len())?;
            check_all_below("cross_entropy", "target", inputs.targets, config.vocab_size)?;
            // Two gradients for one row would be written in any order.
            for pair in inputs.positions.windows(2) {
                let (before, next) = (pair[0] as usize, pair[1] as usize);
                check_at_least("loss", "a position after its neighbour", next, before + 1)?;
            }
        }
        let (capacity, cache) = cache.unwrap_or((0, &[]));
        let documents = inputs.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]);
        if let Kind::Generate { .. } = kind {
            check("attention::decode", "rows", inputs.cu_seqlens.len(), cache.len() + 1)?;
            for (new, &len) in documents.zip(cache) {
                check_at_least("attention::decode", "capacity", capacity, (len + new) as usize)?;
            }
        }
        self.set(List::Tokens, inputs.tokens.iter().copied())?;
        self.set(List::PositionIds, inputs.position_ids.iter().copied())?;
        match kind {
            Kind::Generate { .. } => {
                self.set(List::CuSeqlens, inputs.cu_seqlens.iter().copied())?;
            }
            // Without its empty documents there are never more than tokens.
            _ => {
                let ends = inputs.cu_seqlens.windows(2).filter(|pair| pair[0] < pair[1]);
                self.set(List::CuSeqlens, [0].into_iter().chain(ends.map(|pair| pair[1])))?;
            }
        }
        self.set(List::Positions, inputs.positions.iter().copied())?;
        self.set(List::Targets, inputs.targets.iter().copied())?;
        self.set(List::CacheLens, cache.iter().copied())?;
        let new = inputs.cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]);
        self.set(List::CacheTotals, cache.iter().zip(new).map(|(len, new)| len + new))
    }

    /// Copies it to the device.
    pub fn upload(&mut self, cuda: &Cuda) -> Result<(), CudaError> {
        cuda.write(&mut self.device.view_mut(), &self.host)
    }

    pub fn tokens(&self) -> View<'_, u32> {
        self.list(List::Tokens)
    }

    pub fn position_ids(&self) -> View<'_, u32> {
        self.list(List::PositionIds)
    }

    pub fn cu_seqlens(&self) -> View<'_, u32> {
        self.list(List::CuSeqlens)
    }

    /// Documents, or rows of the cache.
    pub fn documents(&self) -> usize {
        self.lens[List::CuSeqlens as usize] - 1
    }

    pub fn positions(&self) -> View<'_, u32> {
        self.list(List::Positions)
    }

    pub fn targets(&self) -> View<'_, u32> {
        self.list(List::Targets)
    }

    /// Tokens of each row of the cache before the run.
    pub fn cache_lens(&self) -> View<'_, u32> {
        self.list(List::CacheLens)
    }

    /// As [`Batch::cache_lens`], after it.
    pub fn cache_totals(&self) -> View<'_, u32> {
        self.list(List::CacheTotals)
    }
}
