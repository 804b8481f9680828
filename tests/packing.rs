//! Packing: every token exactly once, capacity never exceeded, no target across a border, the same
//! batches from the same seed.

use dayrun::data::batch::MicroBatch;
use dayrun::data::pack::{Epoch, PackStats, TooLong, WINDOW, sequential_batches};
use dayrun::data::{Dataset, Document};
use proptest::prelude::*;

/// Documents whose tokens are all different, so that each can be followed.
fn documents(shapes: &[Vec<bool>]) -> Vec<Document> {
    let mut next = 0;
    let mut document = |mask: &Vec<bool>| {
        let tokens = (next..next + mask.len() as u32).collect();
        next += mask.len() as u32;
        Document { tokens, loss_mask: mask.clone() }
    };
    shapes.iter().map(&mut document).collect()
}

/// An epoch's micro-batches.
fn epoch_batches(
    documents: &[Document],
    capacity: usize,
    seed: u64,
    epoch: u64,
) -> Result<Vec<MicroBatch>, TooLong> {
    let dataset = Dataset::of(documents);
    let epoch = Epoch::new(&dataset, capacity, seed, epoch)?;
    let batches = epoch.batches(&dataset.documents).unwrap();
    assert_eq!(epoch.utilisation(), PackStats::of(&batches, capacity).utilisation());
    Ok(batches)
}

/// What holds for any packed batch, and the (predictor, target) pairs it teaches.
fn check(batch: &MicroBatch, capacity: usize) -> Vec<(u32, u32)> {
    let t = batch.tokens.len();
    assert!(t <= capacity && t > 0, "{t} of {capacity}");
    assert_eq!(batch.position_ids.len(), t);
    assert_eq!(batch.cu_seqlens[0], 0);
    assert_eq!(batch.cu_seqlens.last().copied(), Some(t as u32));
    for pair in batch.cu_seqlens.windows(2) {
        assert!(pair[0] < pair[1]);
        let positions = &batch.position_ids[pair[0] as usize..pair[1] as usize];
        assert!(positions.iter().copied().eq(0..pair[1] - pair[0]));
    }
    assert_eq!(batch.loss_positions.len(), batch.targets.len());
    assert!(batch.loss_positions.is_sorted_by(|a, b| a < b));
    let pair = |(&row, &target): (&u32, &u32)| {
        assert!(!batch.cu_seqlens.contains(&(row + 1)), "row {row} predicts across a border");
        assert_eq!(batch.tokens[row as usize + 1], target);
        (batch.tokens[row as usize], target)
    };
    batch.loss_positions.iter().zip(&batch.targets).map(pair).collect()
}

/// The pairs that the documents ask for.
fn pairs(documents: &[Document]) -> Vec<(u32, u32)> {
    let of = |d: &Document| {
        let rows = 1..d.tokens.len();
        rows.filter(|&i| d.loss_mask[i]).map(|i| (d.tokens[i - 1], d.tokens[i])).collect::<Vec<_>>()
    };
    documents.iter().flat_map(of).collect()
}

fn shapes() -> impl Strategy<Value = (Vec<Vec<bool>>, usize)> {
    (1usize..40).prop_flat_map(|capacity| {
        let mask = prop::collection::vec(any::<bool>(), 1..=capacity);
        (prop::collection::vec(mask, 1..200), Just(capacity))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn epochs_keep_everything_once((shapes, capacity) in shapes(), seed: u64, epoch in 0u64..5) {
        let documents = documents(&shapes);
        let batches = epoch_batches(&documents, capacity, seed, epoch).unwrap();
        let mut taught: Vec<_> = batches.iter().flat_map(|b| check(b, capacity)).collect();
        taught.sort_unstable();
        prop_assert_eq!(taught, pairs(&documents));
        // Whole documents, each once.
        let mut starts: Vec<&[u32]> = Vec::new();
        for b in &batches {
            for w in b.cu_seqlens.windows(2) {
                starts.push(&b.tokens[w[0] as usize..w[1] as usize]);
            }
        }
        starts.sort_unstable();
        let whole: Vec<&[u32]> = documents.iter().map(|d| d.tokens.as_slice()).collect();
        prop_assert_eq!(starts, whole);
        prop_assert_eq!(&batches, &epoch_batches(&documents, capacity, seed, epoch).unwrap());
        let stats = PackStats::of(&batches, capacity);
        prop_assert_eq!(stats.documents, documents.len());
        prop_assert_eq!(stats.loss_tokens, pairs(&documents).len());
        prop_assert!(stats.utilisation() <= 1.0);
    }

    #[test]
    fn sequences_keep_order_and_owners((shapes, capacity) in shapes()) {
        let documents = documents(&shapes);
        let batches = sequential_batches(&documents, capacity).unwrap();
        let tokens: Vec<u32> = batches.iter().flat_map(|b| b.batch.tokens.clone()).collect();
        prop_assert!(tokens.iter().copied().eq(0..tokens.len() as u32));
        prop_assert_eq!(tokens.len(), shapes.iter().map(Vec::len).sum::<usize>());
        let mut taught = Vec::new();
        for b in &batches {
            let found = check(&b.batch, capacity);
            prop_assert_eq!(found.len(), b.document_of.len());
            for (pair, &owner) in found.iter().zip(&b.document_of) {
                prop_assert!(documents[owner as usize].tokens.contains(&pair.1));
            }
            taught.extend(found);
        }
        prop_assert_eq!(taught, pairs(&documents));
    }
}

#[test]
fn seeds_and_epochs_give_different_orders() {
    let documents = documents(&vec![vec![true; 5]; 300]);
    let of = |seed, epoch| epoch_batches(&documents, 32, seed, epoch).unwrap();
    assert_ne!(of(1, 0), of(1, 1));
    assert_ne!(of(1, 0), of(2, 0));
    assert_eq!(of(1, 0), of(1, 0));
}

#[test]
fn mixed_lengths_leave_little_unused() {
    // 2,000 documents of 10 to 400 tokens, in batches of 512.
    let shapes: Vec<_> = (0..2000).map(|i| vec![true; 10 + (i * 7919) % 391]).collect();
    let documents = documents(&shapes);
    let batches = epoch_batches(&documents, 512, 3, 0).unwrap();
    let stats = PackStats::of(&batches, 512);
    assert!(batches.len() > 2 * WINDOW);
    assert!(stats.utilisation() > 0.97, "{stats:?} {}", stats.utilisation());
}

#[test]
fn too_long_a_document_is_named() {
    let documents = documents(&[vec![true; 4], vec![true; 9]]);
    let problem = epoch_batches(&documents, 8, 0, 0).unwrap_err();
    assert_eq!((problem.document, problem.length, problem.capacity), (1, 9, 8));
    assert!(sequential_batches(&documents, 8).is_err());
    assert!(epoch_batches(&[], 8, 0, 0).unwrap().is_empty());
    assert!(sequential_batches(&[], 8).unwrap().is_empty());
}
