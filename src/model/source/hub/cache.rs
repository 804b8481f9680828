//! One model's folder in Hugging Face's cache.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hf_hub::{Cache, Repo, RepoType};

use super::{Hub, HubError};

/// The folder of a repository; see [`super`] for what is in it.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of `repo`, there or not.
    ///
    /// Errors: [`HubError::NoCache`].
    pub fn of(hub: &Hub, repo: &str) -> Result<Self, HubError> {
        let cache = hub.cache.clone().ok_or(HubError::NoCache)?;
        let repo = Repo::new(repo.into(), RepoType::Model);
        Ok(Self { path: Cache::new(cache).path().join(repo.folder_name()) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the files of a commit lie.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.path.join("snapshots").join(commit)
    }

    /// The bytes of a version of a file.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.path.join("blobs").join(etag)
    }

    /// The commit that a revision was last seen at: a branch or tag that has a reference, or a commit
    /// that has a snapshot.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if let Ok(commit) = fs::read_to_string(self.reference(revision)) {
            return Some(commit.trim().to_string());
        }
        self.snapshot(revision).is_dir().then(|| revision.to_string())
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.path.join("refs").join(revision)
    }

    /// Remembers the commit that a revision is at.
    pub fn remember(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let path = self.reference(revision);
        if revision == commit || fs::read_to_string(&path).is_ok_and(|found| found == commit) {
            return Ok(());
        }
        replace(&path, commit.as_bytes()).map_err(|source| HubError::Io {
            doing: "writing",
            path,
            source,
        })
    }

    /// Puts the bytes of a version into a snapshot under the file's name, as a link where the system
    /// has them.
    pub fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf, HubError> {
        let blob = self.blob(etag);
        let path = self.snapshot(commit).join(file);
        let io = |source| HubError::Io { doing: "linking", path: path.clone(), source };
        if path.exists() {
            return Ok(path);
        }
        fs::create_dir_all(path.parent().unwrap_or(&self.path)).map_err(io)?;
        // From snapshots/COMMIT/FILE, with one step up more for each folder of FILE.
        let up = "../".repeat(2 + file.matches('/').count());
        // A link whose bytes were deleted is in the way.
        let _ = fs::remove_file(&path);
        match symlink(Path::new(&format!("{up}blobs/{etag}")), &path) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                fs::rename(&blob, &path).map_err(io)?
            }
            // Another program was faster.
            Err(_) if path.exists() => {}
            linked => linked.map_err(io)?,
        }
        Ok(path)
    }
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(not(unix))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Bytes that are free on the disk that `path` is on, where the system says.
pub fn free(path: &Path) -> Option<u64> {
    #[cfg(unix)]
    {
        let there = path.ancestors().find(|path| path.exists())?;
        let disk = rustix::fs::statvfs(there).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        None
    }
}
