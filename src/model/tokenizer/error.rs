//! What can go wrong when a tokenizer is loaded or used.

use std::path::{Path, PathBuf};

/// Loading or using a tokenizer failed. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("reading {}: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    /// A key is missing or has an impossible value.
    #[error("{}: `{key}` {problem}", path.display())]
    Key { path: PathBuf, key: String, problem: String },
    /// Something that is known but not supported; `what` names it.
    #[error("{}: {what} is not supported", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// The tokenizers library refused the file.
    #[error("{}: not a tokenizer: {problem}", path.display())]
    Build { path: PathBuf, problem: String },
    /// The tokenizers library panicked: only a malformed tokenizer file makes it do that.
    #[error("{}: the tokenizer panicked while {doing}", path.display())]
    Panicked { path: PathBuf, doing: &'static str },
    /// The tokenizers library returned an error for this text or these ids.
    #[error("{}: {doing}: {problem}", path.display())]
    Use { path: PathBuf, doing: &'static str, problem: String },
    /// A simple text did not survive encoding and decoding.
    #[error("{}: the tokenizer turns {text:?} into {got:?}", path.display())]
    RoundTrip { path: PathBuf, text: String, got: String },
    /// A token id that the model's embedding does not have.
    #[error(
        "{} has {known} tokens, the highest {id} ({token:?}); the embedding of {} has {vocab_size} rows",
        path.display(),
        model.display()
    )]
    Vocab {
        path: PathBuf,
        token: Box<str>,
        id: u32,
        known: u32,
        model: Box<Path>,
        vocab_size: usize,
    },
    /// An id that ends a generation and that the model's embedding does not have.
    #[error(
        "the files beside {} end a generation with id {id}; the embedding of {} has {vocab_size} rows",
        path.display(),
        model.display()
    )]
    StopId { path: PathBuf, id: u32, model: Box<Path>, vocab_size: usize },
    /// The model itself could not be opened.
    #[error(transparent)]
    Model(#[from] Box<crate::model::Error>),
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "download the model's tokenizer.json into its directory"
            }
            Error::Build { .. } | Error::Panicked { .. } | Error::RoundTrip { .. } => {
                "the tokenizer file is damaged or of a kind this version does not know; download it \
                 again"
            }
            Error::Vocab { .. } => {
                "take the tokenizer that came with the weights: with this one, some tokens would have no \
                 embedding"
            }
            Error::StopId { .. } => {
                "mend eos_token_id in generation_config.json and config.json: they are from another model"
            }
            Error::Model(source) => return source.hint(),
            _ => return None,
        };
        Some(hint.into())
    }
}
