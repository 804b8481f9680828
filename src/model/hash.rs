//! Content hashes: which bytes a base model is.
//!
//! [`tree`] is a tree of SHA-256 over pieces of 4 MiB, computed in parallel and the same for any
//! number of threads: `SHA-256(len as u64 LE ‖ SHA-256(piece 0) ‖ SHA-256(piece 1) ‖ ...)`.
//!
//! [`files`] hashes each file of a model wholly up to 1 GiB. Of a larger one it takes the length and
//! 256 pieces of 256 KiB, evenly spaced, the first and last among them: hashing all of a 16 GB
//! model at each start would cost more than loading it. Another training run changes nearly
//! every tensor and is told apart; a change of a few bytes by hand is not, so whoever keys a cache
//! with it adds the modification times of large files ([`is_sampled`]).

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Bytes that one leaf of the tree covers.
pub const PIECE: usize = 4 << 20;
/// Files longer than this are sampled.
pub const WHOLE: usize = 1 << 30;
const SAMPLES: usize = 256;
const SAMPLE: usize = 256 << 10;

/// The tree hash of `bytes`.
pub fn tree(bytes: &[u8]) -> [u8; 32] {
    root(bytes.len(), bytes.par_chunks(PIECE))
}

fn root<'a>(len: usize, pieces: impl IndexedParallelIterator<Item = &'a [u8]>) -> [u8; 32] {
    let leaves: Vec<[u8; 32]> = pieces.map(|piece| Sha256::digest(piece).into()).collect();
    let mut root = Sha256::new();
    root.update((len as u64).to_le_bytes());
    for leaf in leaves {
        root.update(leaf);
    }
    root.finalize().into()
}

/// Whether [`files`] takes only samples of a file of `len` bytes.
pub fn is_sampled(len: usize) -> bool {
    len > WHOLE
}

/// One hash of several files, each with its name, in the order given.
pub fn files<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> [u8; 32] {
    let mut all = Sha256::new();
    for (name, bytes) in files {
        all.update((name.len() as u64).to_le_bytes());
        all.update(name);
        all.update(if is_sampled(bytes.len()) { sampled(bytes) } else { tree(bytes) });
    }
    all.finalize().into()
}

fn sampled(bytes: &[u8]) -> [u8; 32] {
    let last = bytes.len().saturating_sub(SAMPLE);
    let pieces = (0..SAMPLES).into_par_iter().map(|i| {
        let start = (last as u128 * i as u128 / (SAMPLES - 1) as u128) as usize;
        &bytes[start..bytes.len().min(start + SAMPLE)]
    });
    root(bytes.len(), pieces)
}

/// Lower-case hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_depends_on_every_byte_and_on_the_length() {
        let mut bytes = vec![0u8; PIECE + 5];
        let zeros = tree(&bytes);
        assert_ne!(zeros, tree(&bytes[..PIECE + 4]));
        for at in [0, PIECE - 1, PIECE, PIECE + 4] {
            bytes[at] = 1;
            assert_ne!(tree(&bytes), zeros, "byte {at}");
            bytes[at] = 0;
        }
        assert_eq!(tree(&bytes), zeros);
    }

    #[test]
    fn samples_cover_both_ends_and_the_length() {
        let mut bytes = vec![0u8; 3 * SAMPLE * SAMPLES];
        let zeros = sampled(&bytes);
        assert_ne!(zeros, sampled(&bytes[..bytes.len() - 1]));
        for at in [0, bytes.len() - 1] {
            bytes[at] = 1;
            assert_ne!(sampled(&bytes), zeros, "byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn names_and_bytes_of_files_are_told_apart() {
        let pair = |a, b| files([(a, &b"x"[..]), (b, &b"y"[..])]);
        assert_ne!(pair("a", "b"), pair("b", "a"));
        assert_ne!(files([("ab", &b""[..])]), files([("a", &b"b"[..])]));
    }
}
