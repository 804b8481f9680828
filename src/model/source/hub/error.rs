//! Why a model could not be had from the Hub.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The Hub, the network or the cache did not give the model.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// An `hf://` address that is none.
    #[error("`{text}` {problem}")]
    Address { text: String, problem: String },
    #[error("no cache directory: neither HF_HUB_CACHE nor HF_HOME nor HOME is set")]
    NoCache,
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The request did not come to an answer.
    #[error("{url}: {source}")]
    Request { url: String, source: Box<ureq::Error> },
    /// The connection is there, and nothing comes.
    #[error("{url}: no progress for {} s", after.as_secs_f64())]
    Stalled { url: String, after: Duration },
    /// The answer ended before it was whole.
    #[error("{url}: the connection broke off: {source}")]
    Cut { url: String, source: io::Error },
    /// 401 and 403.
    #[error("the Hub refuses {repo} ({status}{}{said})", if said.is_empty() { "" } else { ": " })]
    Denied { repo: String, page: String, status: u16, said: String, with_token: bool },
    #[error("the Hub has no model {repo}, or not for everybody")]
    NoModel { repo: String, with_token: bool },
    #[error("{repo} has no revision `{revision}`")]
    NoRevision { repo: String, revision: String },
    #[error("{repo} has no file `{file}`")]
    NoFile { repo: String, file: String },
    #[error("{url}: HTTP status {status}{}{said}", if said.is_empty() { "" } else { ": " })]
    Status { url: String, status: u16, said: String },
    /// An answer that makes no sense.
    #[error("{url}: {problem}")]
    Answer { url: String, problem: String },
    #[error("{what} has {found} bytes, expected {expected}")]
    Size { what: String, found: u64, expected: u64 },
    #[error("{what} has SHA-256 {found}, expected {expected}")]
    Hash { what: String, found: String, expected: String },
    #[error(
        "{repo} needs {} more in {}, where {} are free", size(*needed), path.display(), size(*free)
    )]
    NoRoom { repo: String, path: PathBuf, needed: u64, free: u64 },
    /// Another program holds the file's lock, and its download stands still.
    #[error("another program is fetching {}, and has made no progress for {} s", path.display(), after.as_secs_f64())]
    Locked { path: PathBuf, after: Duration },
    /// A repository without weights that can be read; `instead` says what it has.
    #[error("{repo} holds no model in safetensors{}{instead}", if instead.is_empty() { "" } else { ": " })]
    NoWeights { repo: String, instead: String, gguf: Option<String> },
    #[error("{address} is not in the cache {}: {missing}", path.display())]
    NotCached { address: String, path: PathBuf, missing: String },
    /// What config.json says is refused before the weights are fetched.
    #[error(transparent)]
    Model(#[from] Box<crate::model::Error>),
}

fn size(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

impl HubError {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            HubError::Address { .. } => {
                "a model on the Hub is hf://org/name, with @revision where need be; one GGUF file of \
                 it hf://org/name/FILE.gguf"
                    .into()
            }
            HubError::Denied { page, with_token: false, .. } => format!(
                "the model is gated or private: accept its licence at {page}, then set HF_TOKEN to a \
                 token of yours"
            ),
            HubError::Denied { page, with_token: true, .. } => format!(
                "the token was not accepted: has its owner accepted the licence at {page}, and may \
                 the token read gated models?"
            ),
            HubError::NoModel { with_token: false, .. } => {
                "check the name; a private model needs HF_TOKEN".into()
            }
            HubError::NoModel { .. } | HubError::NoRevision { .. } => "check the name".into(),
            HubError::Request { .. } => {
                "is this machine connected? HF_ENDPOINT names a mirror of the Hub, HTTPS_PROXY a \
                 proxy; with HF_HUB_OFFLINE=1 the cache alone is looked at"
                    .into()
            }
            HubError::Stalled { .. } | HubError::Cut { .. } => {
                "what has arrived is kept: the same command goes on from there \
                 (HF_HUB_DOWNLOAD_TIMEOUT sets the seconds of patience)"
                    .into()
            }
            HubError::Status { status: 429, .. } => "wait a few minutes, or set HF_TOKEN".into(),
            HubError::NoRoom { .. } => "make room, or set HF_HOME to a folder on another disk".into(),
            HubError::NoWeights { repo, gguf: Some(file), .. } => {
                format!("one of its files can be named: hf://{repo}/{file}")
            }
            HubError::NotCached { .. } => {
                "HF_HUB_OFFLINE is set: unset it, so that the model can be fetched".into()
            }
            HubError::Model(error) => return error.hint(),
            _ => return None,
        })
    }

    /// Whether another try may do: the network's trouble, or a server's.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            HubError::Request { source, .. } => match &**source {
                ureq::Error::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
                ureq::Error::Protocol(_) | ureq::Error::ConnectionFailed => true,
                _ => false,
            },
            HubError::Stalled { .. } | HubError::Cut { .. } => true,
            HubError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        }
    }

    /// Whether the Hub could not be asked at all, so that what the cache holds has to do.
    pub(super) fn is_unreachable(&self) -> bool {
        matches!(self, HubError::Request { .. } | HubError::Stalled { .. })
    }
}
