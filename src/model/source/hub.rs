//! The pinned file from the Hub, through hf-hub: ordinary cache, ordinary token.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};

use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::{Pinned, Refusal, Sources, fetching, verify};
use crate::progress::Report;

fn repo(pinned: &Pinned) -> Repo {
    Repo::with_revision(pinned.hub_repo.into(), RepoType::Model, pinned.hub_revision.into())
}

/// The file in Hugging Face's cache, verified. The pinned revision's snapshot is looked up by its
/// own name: Python's client writes no reference for a revision that is a commit.
pub(super) fn cached(pinned: &Pinned, sources: &Sources) -> Result<PathBuf, Refusal> {
    let cache = sources.hub_cache.clone().ok_or(Refusal::NoCache)?;
    let snapshot = Cache::new(cache).repo(repo(pinned)).pointer_path(pinned.hub_revision);
    let path = snapshot.join(pinned.file);
    verify(pinned, &path)?;
    Ok(path)
}

/// What the downloading thread says.
enum Message {
    Progress(u64, u64),
    Done(Result<PathBuf, ApiError>),
}

/// hf-hub's callbacks, turned into messages.
struct Watch {
    messages: mpsc::Sender<Message>,
    given_up: Arc<AtomicBool>,
    done: u64,
    total: u64,
}

impl Watch {
    fn tell(&self) {
        // A source that was given up must not go on filling the line: hf-hub has no way to cancel,
        // so the thread sleeps until the process ends. What it left is a `.part` file, which
        // hf-hub resumes the next time.
        while self.given_up.load(Ordering::Relaxed) {
            std::thread::park();
        }
        let _ = self.messages.send(Message::Progress(self.done, self.total));
    }
}

impl hf_hub::api::Progress for Watch {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        if size > 0 {
            self.tell();
        }
    }

    fn finish(&mut self) {}
}

/// Downloads into Hugging Face's cache, in a thread of its own that is left behind when it makes
/// no progress.
pub(super) fn fetch(
    pinned: &Pinned,
    sources: &Sources,
    report: Report,
) -> Result<PathBuf, Refusal> {
    let cache = sources.hub_cache.clone().ok_or(Refusal::NoCache)?;
    let mut builder = ApiBuilder::from_cache(Cache::new(cache)).with_progress(false);
    if let Some(endpoint) = &sources.hub_endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(token) = &sources.hub_token {
        builder = builder.with_token(Some(token.clone()));
    }
    let (sender, messages) = mpsc::channel();
    let given_up = Arc::new(AtomicBool::new(false));
    let watch = Watch { messages: sender.clone(), given_up: given_up.clone(), done: 0, total: 0 };
    let (repo, file) = (repo(pinned), pinned.file);
    let download = move || {
        let result =
            builder.build().and_then(|api| api.repo(repo).download_with_progress(file, watch));
        let _ = sender.send(Message::Done(result));
    };
    std::thread::Builder::new().name("hub".into()).spawn(download).map_err(|source| {
        Refusal::Io { doing: "starting a thread for", path: pinned.file.into(), source }
    })?;
    report(fetching(pinned, 0, 0));
    loop {
        match messages.recv_timeout(sources.stall) {
            Ok(Message::Progress(done, total)) => report(fetching(pinned, done, total)),
            Ok(Message::Done(result)) => return kept(pinned, result?),
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::Relaxed);
                return Err(Refusal::Stalled { after: sources.stall });
            }
            Err(RecvTimeoutError::Disconnected) => return Err(Refusal::Lost),
        }
    }
}

/// A fresh download with the wrong bytes must not stay where every other program would find it.
fn kept(pinned: &Pinned, path: PathBuf) -> Result<PathBuf, Refusal> {
    let verdict = verify(pinned, &path);
    if verdict.is_err() {
        if let Ok(blob) = path.canonicalize() {
            let _ = std::fs::remove_file(blob);
        }
        let _ = std::fs::remove_file(&path);
    }
    verdict.map(|()| path)
}
