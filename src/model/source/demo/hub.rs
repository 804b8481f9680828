//! The pinned file from the Hub, by way of Hugging Face's cache.

use std::path::PathBuf;

use super::{Pinned, Refusal, Sources, verify};
use crate::model::source::hub::{Client, Folder, Meter, Source, download};
use crate::progress::Report;

/// The file in Hugging Face's cache, verified. The pinned revision is a commit, so its snapshot is
/// known by name.
pub(super) fn cached(pinned: &Pinned, sources: &Sources) -> Result<PathBuf, Refusal> {
    let folder = Folder::of(&sources.hub, pinned.hub_repo)?;
    let path = folder.snapshot(pinned.hub_revision).join(pinned.file);
    verify(pinned, &path)?;
    Ok(path)
}

/// Downloads it into Hugging Face's cache.
pub(super) fn fetch(
    pinned: &Pinned,
    sources: &Sources,
    report: Report,
) -> Result<PathBuf, Refusal> {
    let folder = Folder::of(&sources.hub, pinned.hub_repo)?;
    if sources.hub.offline {
        return Err(Refusal::Offline);
    }
    let client = Client::new(&sources.hub);
    let Pinned { hub_repo: repo, hub_revision: commit, file, .. } = *pinned;
    let source = Source { repo, commit, file };
    let meter = Meter::new("fetching the model", pinned.bytes, report);
    let metadata = client.metadata(source)?;
    kept(pinned, download(&client, &folder, source, &metadata, &meter)?)
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
