//! Truncated, flipped and lying GGUF files: an error, never a panic, never a large allocation.

use std::path::Path;

use dayrun::device::bytes::Bytes;
use dayrun::model::gguf::Gguf;
use proptest::prelude::*;
use safetensors::Dtype;
use tempfile::tempdir;

use super::load_plain;
use super::writer::{GgufFile, Meta, TINY, Tiny};

const SMALL: Tiny =
    Tiny { vocab: 3, hidden: 4, inner: 5, layers: 1, heads: 2, kv: 1, head_dim: 2, ..TINY };

fn small() -> Vec<u8> {
    GgufFile::float(&SMALL, Dtype::F32).bytes()
}

/// Where the tensor data begin.
fn header(bytes: &[u8]) -> usize {
    let gguf = Gguf::read(Path::new("x"), &Bytes::from(bytes.to_vec())).expect("reads");
    bytes.len() - gguf.tensors.values().map(|t| t.data.len().next_multiple_of(32)).sum::<usize>()
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("cut.gguf");
    let whole = small();
    std::fs::write(&path, &whole).expect("writes");
    load_plain(&path).expect("loads");
    // The last tensor's padding may be missing.
    let end = whole.len() - 32 + 4 * SMALL.hidden;
    for len in 0..end {
        std::fs::write(&path, &whole[..len]).expect("writes");
        assert!(load_plain(&path).is_err(), "{len} of {} bytes load", whole.len());
    }
}

#[test]
fn every_header_bit_can_be_flipped() {
    let dir = tempdir().expect("a directory");
    let path = dir.path().join("flipped.gguf");
    let whole = small();
    let header = header(&whole);
    for bit in 0..header * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // All bits through the parser, every seventh through the whole loader.
        let _ = Gguf::read(Path::new("x"), &Bytes::from(flipped.clone()));
        if bit % 7 == 0 {
            std::fs::write(&path, &flipped).expect("writes");
            let _ = load_plain(&path);
        }
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let whole = small();
    // The counts of tensors and metadata, and the length of the first key.
    for at in [8, 16, 24] {
        for lie in [u64::MAX, u64::MAX / 2, 1 << 40, 1 << 31, whole.len() as u64] {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&lie.to_le_bytes());
            let error = Gguf::read(Path::new("x"), &Bytes::from(bytes)).expect_err("refused");
            assert!(error.to_string().contains(&lie.to_string()), "{error}");
        }
    }
}

#[test]
fn alignments_that_lie_are_refused() {
    for alignment in [0, 1, 3, 4, 48, u32::MAX] {
        let mut file = GgufFile::float(&SMALL, Dtype::F32);
        file.set("general.alignment", Meta::U32(alignment));
        let error = Gguf::read(Path::new("x"), &Bytes::from(file.bytes())).expect_err("refused");
        assert!(error.to_string().contains("general.alignment"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_bytes_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..9),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        quantised in any::<bool>(),
    ) {
        let mut bytes = match quantised {
            false => small(),
            true => {
                let tiny = Tiny { hidden: 32, inner: 32, head_dim: 16, ..SMALL };
                // Q8_0 blocks of zeros.
                GgufFile::new(&tiny, |t| (8, vec![0; t.values.len() / 32 * 34])).bytes()
            }
        };
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("damaged.gguf");
        std::fs::write(&path, &bytes).expect("writes");
        let _ = load_plain(&path);
    }
}
