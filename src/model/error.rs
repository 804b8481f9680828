//! What can go wrong when a base model is loaded.

use std::path::PathBuf;

use super::family;
use crate::quant;

/// Loading a base model failed. Every message names the file, and the key or tensor at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// Neither a directory nor a GGUF file.
    #[error("{} is neither a model directory nor a .gguf file", path.display())]
    Source { path: PathBuf },
    /// A directory without any file of a model.
    #[error("the directory {} holds no model: no config.json and no tokenizer.json", path.display())]
    NoModel { path: PathBuf },
    /// This build has no GGUF reader.
    #[error("{} is a GGUF file, and this build has no GGUF reader", path.display())]
    NoGguf { path: PathBuf },
    /// A directory holds no weights file of a known name; `instead` says what it has.
    #[error(
        "{} holds no safetensors: neither model.safetensors nor model.safetensors.index.json{}{}",
        path.display(), if instead.is_some() { "; " } else { "" }, instead.as_deref().unwrap_or("")
    )]
    NoWeights { path: PathBuf, instead: Option<String> },
    /// Files that the index names are not there.
    #[error(
        "{}: {} of {of} shards are missing: {}", path.display(), missing.len(), missing.join(", ")
    )]
    MissingShards { path: PathBuf, missing: Vec<String>, of: usize },
    /// A file is shorter than its header says.
    #[error("{} is incomplete: {found} bytes of {expected}", path.display())]
    Truncated { path: PathBuf, found: usize, expected: usize },
    /// What a clone without git-lfs leaves in place of a large file.
    #[error("{} is a git-lfs pointer, not the file itself", path.display())]
    LfsPointer { path: PathBuf },
    /// A directory with an adapter and no model.
    #[error("{} holds an adapter, not a model: it has adapter_config.json and no config.json", path.display())]
    Adapter { path: PathBuf },
    #[error("reading {}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A configuration key is missing or has an impossible value.
    #[error("{}: `{key}` {problem}", path.display())]
    Key { path: PathBuf, key: String, problem: String },
    /// The model is of a kind that is not supported; `what` names it.
    #[error("{}: {what} is not supported", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// Linears in 4 bits that were to be held unquantised.
    #[error("{}: the linears are quantised already, and were to be held unquantised", path.display())]
    Quantised { path: PathBuf },
    #[error("reading {}: {source}", path.display())]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    /// The shard index is not as it should be.
    #[error("{}: {problem}", path.display())]
    Index { path: PathBuf, problem: String },
    /// The GGUF file is not as the format says; `offset` is where in the file.
    #[error("{}: byte {offset}: {problem}", path.display())]
    Gguf { path: PathBuf, offset: usize, problem: String },
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor { path: PathBuf, tensor: String },
    /// A tensor that the model does not have: leaving it out would change the model.
    #[error("{}: tensor `{tensor}` has no place in this model", path.display())]
    UnexpectedTensor { path: PathBuf, tensor: String },
    #[error(
        "{}: tensor `{tensor}` has shape {found:?}, the configuration asks for {expected:?}",
        path.display()
    )]
    Shape { path: PathBuf, tensor: String, expected: Vec<usize>, found: Vec<usize> },
    #[error("{}: tensor `{tensor}` has dtype {found}, expected {expected}", path.display())]
    Dtype { path: PathBuf, tensor: String, found: String, expected: &'static str },
    /// Quantising or reading a quantised tensor failed.
    #[error("{}: tensor `{tensor}`: {source}", path.display())]
    Tensor { path: PathBuf, tensor: String, source: quant::Error },
    /// candle could not decode a quantised GGUF tensor.
    #[error("{}: tensor `{tensor}`: decoding {dtype}: {problem}", path.display())]
    Decode { path: PathBuf, tensor: String, dtype: &'static str, problem: String },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                return Some(format!("check the path: {A_MODEL}"));
            }
            Error::Source { .. } => A_MODEL,
            Error::NoModel { path } => {
                return Some(match gguf_in(path) {
                    Some(file) => format!("did you mean {}?", file.display()),
                    None => A_MODEL.into(),
                });
            }
            Error::NoGguf { .. } => "build with the feature `gguf`",
            Error::NoWeights { .. } => {
                "download the model's safetensors files into the directory; transformers writes them \
                 with save_pretrained(DIR, safe_serialization=True)"
            }
            Error::MissingShards { .. } => "download the missing files into the directory",
            Error::LfsPointer { .. } => {
                "run `git lfs pull` in the directory (`git lfs install` once before), or download \
                 the file from the model's page"
            }
            Error::Adapter { .. } => "give its base model here, and the adapter as an adapter",
            Error::Unsupported { .. } => {
                return Some(format!(
                    "models of these families are supported: {}",
                    family::names()
                ));
            }
            Error::Truncated { .. } => "the download was cut off; download the file again",
            Error::Quantised { .. } => {
                "model.quantization = \"nf4\" (--quantization nf4) takes them as they are; for an unquantised \
                 base take the model that this one was made from"
            }
            Error::Safetensors { .. } | Error::Gguf { .. } | Error::Decode { .. } => {
                "the file is damaged or incomplete; download it again"
            }
            Error::Shape { .. } | Error::MissingTensor { .. } => {
                "is this file from another model than the configuration?"
            }
            Error::Tensor { source, .. } => return source.hint(),
            _ => return None,
        };
        Some(hint.into())
    }
}

const A_MODEL: &str =
    "a model is a .gguf file, or a directory with config.json, tokenizer.json and safetensors";

/// The first GGUF file in a directory, by name.
fn gguf_in(dir: &std::path::Path) -> Option<PathBuf> {
    let files = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))).min()
}
