//! Packing: documents of different lengths into micro-batches of a fixed capacity.
//!
//! Training: the documents are shuffled by (seed, epoch), cut into windows of about
//! [`WINDOW`] micro-batches, packed first-fit decreasing inside each window (Johnson 1973: at most
//! 11/9 of the fewest bins, in practice a few percent of padding), and the micro-batches shuffled
//! over the whole epoch, so that neither length nor place in the file decides when a document is
//! seen. Evaluation: in order, next fit, remembering which document each loss belongs to.

use super::batch::MicroBatch;
use super::error::Error;
use super::store::{LOSS, TokenStore};
use super::{Dataset, Document};
use crate::rng::Rng;

/// Micro-batches in a window: enough documents to fill the gaps, few enough to stay random.
pub const WINDOW: usize = 64;

/// What keeps the two shuffles of an epoch apart.
const DOCUMENTS: u64 = 1;
const BATCHES: u64 = 2;

/// How well an epoch is packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackStats {
    pub micro_batches: usize,
    pub documents: usize,
    /// Real tokens; padding is none, what is left of each capacity stays unused.
    pub tokens: usize,
    pub loss_tokens: usize,
    /// Micro-batches times capacity.
    pub capacity: usize,
}

impl PackStats {
    /// Of `batches` of `capacity` tokens each.
    pub fn of(batches: &[MicroBatch], capacity: usize) -> Self {
        Self {
            micro_batches: batches.len(),
            documents: batches.iter().map(|b| b.cu_seqlens.len().saturating_sub(1)).sum(),
            tokens: batches.iter().map(|b| b.tokens.len()).sum(),
            loss_tokens: batches.iter().map(|b| b.loss_positions.len()).sum(),
            capacity: batches.len() * capacity,
        }
    }

    /// The part of the capacity that holds real tokens, in `0..=1`.
    pub fn utilisation(&self) -> f64 {
        if self.capacity == 0 { 0.0 } else { self.tokens as f64 / self.capacity as f64 }
    }
}

/// A document longer than a micro-batch's capacity: the packing was given the wrong data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packing: document {document} has {length} tokens, a micro-batch holds {capacity}")]
pub struct TooLong {
    pub document: usize,
    pub length: usize,
    pub capacity: usize,
}

/// Which documents stand together in which micro-batch of an epoch: their numbers alone. The tokens are
/// read when a micro-batch is assembled, so that an epoch of any size takes a few bytes a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Documents, micro-batch by micro-batch.
    documents: Vec<u32>,
    /// Where each micro-batch ends in `documents`.
    ends: Vec<u32>,
    capacity: usize,
    tokens: usize,
}

impl Epoch {
    /// Packs one epoch: at most `capacity` tokens in a micro-batch, every document as often as its data
    /// set's weight says. Depends on the arguments alone.
    ///
    /// Errors: [`TooLong`]; `data::load` with `max_length` up to `capacity` gives none such.
    pub fn new(dataset: &Dataset, capacity: usize, seed: u64, epoch: u64) -> Result<Self, TooLong> {
        let store = &dataset.documents;
        let too_long = (0..store.len()).find(|&d| store.length(d) > capacity);
        if let Some(document) = too_long {
            return Err(TooLong { document, length: store.length(document), capacity });
        }
        let mut order = dataset.epoch_documents(seed, epoch);
        Rng::new(&[seed, epoch, DOCUMENTS]).shuffle(&mut order);

        let mut bins = Bins::default();
        let mut rest = &order[..];
        while !rest.is_empty() {
            let budget = WINDOW.saturating_mul(capacity);
            let mut tokens = 0usize;
            let fits = |&&d: &&u32| {
                tokens = tokens.saturating_add(store.length(d as usize));
                tokens <= budget
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (window, later) = rest.split_at(count);
            first_fit_decreasing(store, window, capacity, &mut bins);
            rest = later;
        }
        let mut shuffled: Vec<u32> = (0..bins.ends.len() as u32).collect();
        Rng::new(&[seed, epoch, BATCHES]).shuffle(&mut shuffled);
        let mut packed = Self { capacity, ..Self::default() };
        for bin in shuffled {
            packed.documents.extend(bins.of(bin as usize));
            packed.ends.push(packed.documents.len() as u32);
        }
        packed.tokens = packed.documents.iter().map(|&d| store.length(d as usize)).sum();
        Ok(packed)
    }

    /// The number of micro-batches.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The part of the capacity that holds real tokens, in `0..=1`.
    pub fn utilisation(&self) -> f64 {
        let room = self.len() * self.capacity;
        if room == 0 { 0.0 } else { self.tokens as f64 / room as f64 }
    }

    /// The documents of micro-batch `i`.
    pub fn documents(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.documents[start as usize..self.ends[i] as usize]
    }

    /// Assembles micro-batch `i` in place of what `batch` holds. Once `batch` has held the largest, nothing
    /// is allocated.
    ///
    /// Errors: the store's file cannot be read.
    pub fn fill(&self, i: usize, store: &TokenStore, batch: &mut MicroBatch) -> Result<(), Error> {
        clear(batch);
        for &d in self.documents(i) {
            append(batch, |tokens| store.read(d as usize, tokens))?;
        }
        Ok(())
    }

    /// All micro-batches at once.
    ///
    /// Errors: as [`Epoch::fill`].
    pub fn batches(&self, store: &TokenStore) -> Result<Vec<MicroBatch>, Error> {
        let one = |i| {
            let mut batch = MicroBatch::default();
            self.fill(i, store, &mut batch).map(|()| batch)
        };
        (0..self.len()).map(one).collect()
    }
}

/// Documents in groups.
#[derive(Default)]
struct Bins {
    documents: Vec<u32>,
    ends: Vec<u32>,
}

impl Bins {
    fn of(&self, bin: usize) -> &[u32] {
        let start = if bin == 0 { 0 } else { self.ends[bin - 1] };
        &self.documents[start as usize..self.ends[bin] as usize]
    }
}

/// The longest first, each into the first bin with room. Equal lengths keep their shuffled order,
/// and inside a bin documents stand in the order in which they went in.
fn first_fit_decreasing(store: &TokenStore, window: &[u32], capacity: usize, out: &mut Bins) {
    let mut sorted = window.to_vec();
    sorted.sort_by_key(|&d| std::cmp::Reverse(store.length(d as usize)));
    let mut bins: Vec<(usize, Vec<u32>)> = Vec::new();
    for d in sorted {
        let length = store.length(d as usize);
        match bins.iter_mut().find(|(room, _)| *room >= length) {
            Some((room, bin)) => {
                *room -= length;
                bin.push(d);
            }
            None => bins.push((capacity - length, vec![d])),
        }
    }
    for (_, bin) in bins {
        out.documents.extend(bin);
        out.ends.push(out.documents.len() as u32);
    }
}

/// A micro-batch for evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EvalBatch {
    pub batch: MicroBatch,
    /// The index of the document that `batch.loss_positions[i]` belongs to.
    pub document_of: Vec<u32>,
}

/// All documents in order, each batch filled until the next document does not fit.
///
/// Errors: [`TooLong`].
pub fn sequential_batches(
    documents: &[Document],
    capacity: usize,
) -> Result<Vec<EvalBatch>, TooLong> {
    if let Some(document) = documents.iter().position(|d| d.tokens.len() > capacity) {
        return Err(TooLong { document, length: documents[document].tokens.len(), capacity });
    }
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (d, document) in documents.iter().enumerate() {
        match bins.last_mut() {
            Some(bin) if document.tokens.len() <= room => bin.push(d),
            _ => {
                bins.push(vec![d]);
                room = capacity;
            }
        }
        room -= document.tokens.len();
    }
    let with_owner = |bin: Vec<usize>| EvalBatch {
        batch: assemble(bin.iter().map(|&d| &documents[d])),
        document_of: bin
            .iter()
            .flat_map(|&d| std::iter::repeat_n(d as u32, documents[d].loss_tokens()))
            .collect(),
    };
    Ok(bins.into_iter().map(with_owner).collect())
}

/// These documents, one behind the other.
fn assemble<'a>(documents: impl Iterator<Item = &'a Document>) -> MicroBatch {
    let mut batch = MicroBatch::default();
    clear(&mut batch);
    for Document { tokens, loss_mask } in documents {
        let stored = tokens.iter().zip(loss_mask);
        let stored = stored.map(|(&id, &loss)| if loss { id | LOSS } else { id });
        let put = |out: &mut Vec<u32>| {
            out.extend(stored);
            Ok::<(), std::convert::Infallible>(())
        };
        let Ok(()) = append(&mut batch, put);
    }
    batch
}

fn clear(batch: &mut MicroBatch) {
    let MicroBatch { tokens, position_ids, cu_seqlens, loss_positions, targets } = batch;
    for list in [tokens, position_ids, &mut *cu_seqlens, loss_positions, targets] {
        list.clear();
    }
    cu_seqlens.push(0);
}

/// Puts one more document into a micro-batch; `put` writes its tokens, with [`LOSS`] where there is some.
/// Row `p` predicts token `p + 1` of the same document, so a document's first token is never a target.
fn append<E>(
    batch: &mut MicroBatch,
    put: impl FnOnce(&mut Vec<u32>) -> Result<(), E>,
) -> Result<(), E> {
    let start = batch.tokens.len();
    put(&mut batch.tokens)?;
    let tokens = &mut batch.tokens[start..];
    batch.position_ids.extend(0..tokens.len() as u32);
    for (i, token) in tokens.iter_mut().enumerate() {
        let loss = *token & LOSS != 0;
        *token &= !LOSS;
        if loss && i > 0 {
            batch.loss_positions.push((start + i) as u32 - 1);
            batch.targets.push(*token);
        }
    }
    batch.cu_seqlens.push(batch.tokens.len() as u32);
    Ok(())
}
