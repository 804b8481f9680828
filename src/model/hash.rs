//! Content hashes: which bytes a base model is.
//!
//! A tree of SHA-256 over pieces of 4 MiB, so that it is computed in parallel and the same for any
//! number of threads: `SHA-256(len as u64 LE ‖ SHA-256(piece 0) ‖ SHA-256(piece 1) ‖ ...)`.

use rayon::prelude::*;
use sha2::{Digest, Sha256};

/// Bytes that one leaf of the tree covers.
pub const PIECE: usize = 4 << 20;

/// The tree hash of `bytes`.
pub fn tree(bytes: &[u8]) -> [u8; 32] {
    let leaves: Vec<[u8; 32]> = bytes.par_chunks(PIECE).map(|p| Sha256::digest(p).into()).collect();
    let mut root = Sha256::new();
    root.update((bytes.len() as u64).to_le_bytes());
    for leaf in leaves {
        root.update(leaf);
    }
    root.finalize().into()
}

/// Lower-case hexadecimal.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
