//! Packing: documents of different lengths into micro-batches of a fixed capacity.
//!
//! Training: the documents are shuffled by (seed, epoch), cut into windows of about
//! [`WINDOW`] micro-batches, packed first-fit decreasing inside each window (Johnson 1973: at most
//! 11/9 of the fewest bins, in practice a few percent of padding), and the micro-batches shuffled
//! over the whole epoch, so that neither length nor place in the file decides when a document is
//! seen. Evaluation: in order, next fit, remembering which document each loss belongs to.

use super::Document;
use super::batch::MicroBatch;
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

fn check(documents: &[Document], capacity: usize) -> Result<(), TooLong> {
    match documents.iter().position(|d| d.tokens.len() > capacity) {
        Some(document) => {
            Err(TooLong { document, length: documents[document].tokens.len(), capacity })
        }
        None => Ok(()),
    }
}

/// The micro-batches of one epoch: every document exactly once, at most `capacity` tokens each.
/// Depends on the arguments alone.
///
/// Errors: [`TooLong`]; `data::load` with `max_length` up to `capacity` gives none such.
pub fn epoch_batches(
    documents: &[Document],
    capacity: usize,
    seed: u64,
    epoch: u64,
) -> Result<Vec<MicroBatch>, TooLong> {
    check(documents, capacity)?;
    let mut order: Vec<usize> = (0..documents.len()).collect();
    Rng::new(&[seed, epoch, DOCUMENTS]).shuffle(&mut order);

    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut rest = &order[..];
    while !rest.is_empty() {
        let budget = WINDOW.saturating_mul(capacity);
        let mut tokens = 0usize;
        let fits = |&&d: &&usize| {
            tokens = tokens.saturating_add(documents[d].tokens.len());
            tokens <= budget
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (window, later) = rest.split_at(count);
        bins.extend(first_fit_decreasing(documents, window, capacity));
        rest = later;
    }
    Rng::new(&[seed, epoch, BATCHES]).shuffle(&mut bins);
    Ok(bins.iter().map(|bin| assemble(documents, bin)).collect())
}

/// The longest first, each into the first bin with room. Equal lengths keep their shuffled order,
/// and inside a bin documents stand in the order in which they went in.
fn first_fit_decreasing(
    documents: &[Document],
    window: &[usize],
    capacity: usize,
) -> Vec<Vec<usize>> {
    let mut sorted = window.to_vec();
    sorted.sort_by_key(|&d| std::cmp::Reverse(documents[d].tokens.len()));
    let mut bins: Vec<(usize, Vec<usize>)> = Vec::new();
    for d in sorted {
        let length = documents[d].tokens.len();
        match bins.iter_mut().find(|(room, _)| *room >= length) {
            Some((room, bin)) => {
                *room -= length;
                bin.push(d);
            }
            None => bins.push((capacity - length, vec![d])),
        }
    }
    bins.into_iter().map(|(_, bin)| bin).collect()
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
    check(documents, capacity)?;
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
        batch: assemble(documents, &bin),
        document_of: bin
            .iter()
            .flat_map(|&d| std::iter::repeat_n(d as u32, documents[d].loss_tokens()))
            .collect(),
    };
    Ok(bins.into_iter().map(with_owner).collect())
}

/// The documents of one bin, one behind the other. Row `p` predicts token `p + 1` of the same
/// document, so a document's first token is never a target.
fn assemble(documents: &[Document], bin: &[usize]) -> MicroBatch {
    let mut batch = MicroBatch { cu_seqlens: vec![0], ..MicroBatch::default() };
    for &d in bin {
        let document = &documents[d];
        let start = batch.tokens.len() as u32;
        batch.tokens.extend(&document.tokens);
        batch.position_ids.extend(0..document.tokens.len() as u32);
        for (i, (&token, &loss)) in
            document.tokens.iter().zip(&document.loss_mask).enumerate().skip(1)
        {
            if loss {
                batch.loss_positions.push(start + i as u32 - 1);
                batch.targets.push(token);
            }
        }
        batch.cu_seqlens.push(batch.tokens.len() as u32);
    }
    batch
}
