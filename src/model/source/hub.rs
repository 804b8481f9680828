//! Models from the Hugging Face Hub, in its ordinary cache and with its ordinary token.
//!
//! The cache's layout is that of hf-hub and of Python's huggingface_hub, so that what one of them has
//! fetched none fetches again:
//!
//! ```text
//! hub/models--ORG--NAME/refs/REVISION              the commit that a branch or tag was last seen at
//!                       snapshots/COMMIT/FILE      a link to
//!                       blobs/ETAG                 the bytes; ETAG.part while they arrive
//! ```
//!
//! The requests are our own, since hf-hub 0.5 sends the token along to whatever host the Hub redirects
//! to, waits for ever for a connection that has gone silent, and appends to a part file whatever a
//! server answers to a range request. A file larger than a few MB is kept under its SHA-256 on the Hub,
//! and what was fetched is held against it.

use std::path::PathBuf;
use std::time::Duration;

mod address;
mod cache;
mod client;
mod download;
mod error;
mod snapshot;

pub use address::Address;
pub use error::HubError;

pub(super) use cache::Folder;
pub(super) use client::{Client, Source};
pub(super) use download::{Meter, download};

/// The Hub, as it is reached from here.
#[derive(Clone, Debug)]
pub struct Hub {
    /// The cache: Hugging Face's folder `hub`.
    pub cache: Option<PathBuf>,
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// Sent to the endpoint, and to no other host.
    pub token: Option<String>,
    /// Nothing is asked for; what the cache holds has to do.
    pub offline: bool,
    /// A connection on which nothing arrives for so long is given up.
    pub stall: Duration,
    /// How often a request is made, one after another without a byte of progress, before it is given up.
    pub tries: u32,
    /// The wait before the second try; twice as long before each further one.
    pub pause: Duration,
}

impl Hub {
    /// As the environment says, in huggingface_hub's variables: `HF_HUB_CACHE`, `HF_HOME`,
    /// `HF_ENDPOINT`, `HF_TOKEN` (or `HF_TOKEN_PATH`, or the token file that a login has written),
    /// `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT` in seconds.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = |name| var(name).map(PathBuf::from);
        let text = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = path("HF_HOME")
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(path("HOME")?.join(".cache").join("huggingface")));
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")));
        let token = || std::fs::read_to_string(token_file?).ok();
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let offline = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().any(|name| {
            let value = text(name).unwrap_or_default().to_lowercase();
            ["1", "on", "yes", "true"].contains(&value.as_str())
        });
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|seconds| seconds.parse().ok());
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| Some(home.as_ref()?.join("hub"))),
            endpoint: endpoint.trim_end_matches('/').into(),
            token: text("HF_TOKEN")
                .or_else(token)
                .map(|token| token.trim().to_string())
                .filter(|token| !token.is_empty()),
            offline,
            stall: Duration::from_secs(seconds.filter(|s| *s > 0).unwrap_or(30)),
            tries: 4,
            pause: Duration::from_secs(1),
        }
    }
}
