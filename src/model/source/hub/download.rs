//! One file of the Hub into the cache: resumed where it was cut, held against its SHA-256.

use std::cell::Cell;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::cache::Folder;
use super::client::{Client, Metadata, Source, broken};
use super::{Hub, HubError};
use crate::model::hash::hex;
use crate::progress::{Progress, Report};

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;
/// How often another program's download is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Counts bytes over several files.
pub struct Meter<'a> {
    done: Cell<u64>,
    total: u64,
    stage: &'static str,
    report: Report<'a>,
}

impl<'a> Meter<'a> {
    pub fn new(stage: &'static str, total: u64, report: Report<'a>) -> Self {
        let meter = Self { done: Cell::new(0), total, stage, report };
        meter.set(0);
        meter
    }

    fn set(&self, done: u64) {
        self.done.set(done);
        let Self { total, stage, .. } = *self;
        (self.report)(Progress { stage, done: done.min(total), total, unit: "bytes" });
    }
}

/// Fetches a file into the cache and into the snapshot of its commit. `metadata` is what the Hub says
/// about it, `meter` counts its bytes, those of an earlier try too.
///
/// Errors: [`HubError`]; bytes that have arrived are kept for the next try, unless they are wrong.
pub fn download(
    client: &Client,
    folder: &Folder,
    source: Source,
    metadata: &Metadata,
    meter: &Meter,
) -> Result<std::path::PathBuf, HubError> {
    let Metadata { etag, size } = metadata;
    let blob = folder.blob(etag);
    let before = meter.done.get();
    if !blob.exists() {
        let part = blob.with_extension("part");
        let io = |doing, path: &Path| {
            let path = path.to_path_buf();
            move |source| HubError::Io { doing, path, source }
        };
        let blobs = blob.parent().unwrap_or(&blob);
        std::fs::create_dir_all(blobs).map_err(io("making", blobs))?;
        let _lock = lock(client.hub, &blob.with_extension("lock"), &part)?;
        // Whoever held the lock may have fetched it.
        if !blob.exists() {
            fill(client, source, metadata, &part, meter)?;
            std::fs::rename(&part, &blob).map_err(io("renaming", &part))?;
        }
    }
    meter.set(before + size);
    folder.link(etag, source.commit, source.file)
}

/// Waits until no other program fetches this file.
fn lock(hub: &Hub, path: &Path, part: &Path) -> Result<File, HubError> {
    let io = |source| HubError::Io { doing: "locking", path: path.into(), source };
    let options = OpenOptions::new().create(true).write(true).truncate(false).open(path);
    let file = options.map_err(io)?;
    let (mut size, mut moved) = (0, Instant::now());
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            // A file system without locks: two programs at once are that unlikely.
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                return Ok(file);
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        let now = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
        if now != size {
            (size, moved) = (now, Instant::now());
        }
        if moved.elapsed() > hub.stall {
            return Err(HubError::Locked { path: part.into(), after: hub.stall });
        }
        std::thread::sleep(POLL);
    }
}

/// Fills the part file up to its end, in as many tries as it takes while each one gets further.
fn fill(
    client: &Client,
    source: Source,
    metadata: &Metadata,
    path: &Path,
    meter: &Meter,
) -> Result<(), HubError> {
    let mut part = Part::open(path, metadata.size)?;
    let before = meter.done.get();
    let (mut failures, mut pause) = (0, client.hub.pause);
    while part.len < metadata.size {
        let start = part.len;
        let Err(error) = stream(client, source, metadata.size, &mut part, &|len| {
            meter.set(before + len);
        }) else {
            break;
        };
        if part.len > start {
            (failures, pause) = (0, client.hub.pause);
        }
        failures += 1;
        if !error.is_passing() || failures >= client.hub.tries {
            return Err(error);
        }
        tracing::warn!(%error, bytes = part.len, of = metadata.size, "the download is resumed");
        std::thread::sleep(pause);
        pause *= 2;
    }
    part.finish(source.file, metadata)
}

/// One try.
fn stream(
    client: &Client,
    source: Source,
    size: u64,
    part: &mut Part,
    on_progress: &dyn Fn(u64),
) -> Result<(), HubError> {
    let (from, mut body, url) = client.open(source, part.len)?;
    if from != part.len {
        part.restart()?;
    }
    // One byte more than there should be shows a file that is too long.
    let mut reader = body.as_reader().take(size - part.len + 1);
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) if part.len < size => {
                let source = io::ErrorKind::UnexpectedEof.into();
                return Err(HubError::Cut { url, source });
            }
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) => return Err(broken(client.hub, &url, error)),
        };
        part.append(&chunk[..read])?;
        if part.len > size {
            let (what, found) = (source.file.into(), part.len);
            part.restart()?;
            return Err(HubError::Size { what, found, expected: size });
        }
        on_progress(part.len);
    }
}

/// The beginning of a file, and its hash so far.
struct Part<'a> {
    path: &'a Path,
    file: File,
    len: u64,
    digest: Sha256,
}

impl<'a> Part<'a> {
    /// Opens what an earlier try has left, or a new file.
    fn open(path: &'a Path, size: u64) -> Result<Self, HubError> {
        let io = |source| HubError::Io { doing: "opening", path: path.into(), source };
        let options =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path);
        let mut part = Self { path, file: options.map_err(io)?, len: 0, digest: Sha256::new() };
        if part.file.metadata().map_err(io)?.len() > size {
            part.restart()?;
        }
        let mut chunk = vec![0; CHUNK];
        loop {
            match part.file.read(&mut chunk).map_err(io)? {
                0 => return Ok(part),
                read => {
                    part.digest.update(&chunk[..read]);
                    part.len += read as u64;
                }
            }
        }
    }

    fn io(&self, doing: &'static str) -> impl Fn(io::Error) -> HubError {
        let path = self.path.to_path_buf();
        move |source| HubError::Io { doing, path: path.clone(), source }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(self.io("emptying"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(self.io("emptying"))?;
        (self.len, self.digest) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(self.io("writing"))?;
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Checks the whole file: its ETag is its SHA-256 if the Hub keeps it as a large file. A small
    /// one's is git's SHA-1, and its length has to do.
    fn finish(mut self, file: &str, metadata: &Metadata) -> Result<(), HubError> {
        self.file.sync_all().map_err(self.io("writing"))?;
        let etag = &metadata.etag;
        if etag.len() != 64 || !etag.chars().all(|c| c.is_ascii_hexdigit()) {
            return Ok(());
        }
        let found = hex(&std::mem::take(&mut self.digest).finalize());
        if found != etag.to_lowercase() {
            self.restart()?;
            let (what, expected) = (file.into(), etag.clone());
            return Err(HubError::Hash { what, found, expected });
        }
        Ok(())
    }
}
