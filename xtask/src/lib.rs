//! A developer's commands, as functions that tests can call too.

pub mod cuda;
pub mod error;
pub mod kernels;
mod nvrtc;
pub mod planted;
pub mod ptx;
pub mod wheels;

use std::path::{Path, PathBuf};

/// The repository's root.
pub fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// Where everything fetched and built by these commands lies; git does not see it.
pub fn target() -> PathBuf {
    root().join("target")
}
