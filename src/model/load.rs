//! Loading a base model: from a Hub directory or a GGUF file, through the NF4 cache.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

#[cfg(feature = "gguf")]
use super::gguf::{self, Gguf};
use super::hub::Checkpoint;
use super::hub::config::Storage;
use super::weights::Weights;
use super::{Error, cache, hash};
use crate::device::bytes::Bytes;
use crate::model::config::LlamaConfig;
use crate::progress::{Progress, Report};

/// Changed whenever loading or quantising gives other bytes than before, so that old cache files
/// are not taken.
const RULES: &[u8] = b"bf16 nf4/64 double/256 v2";

/// How to load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadOptions {
    /// Where quantised models are kept (see [`cache::default_dir`]); `None`: neither read nor
    /// written.
    pub cache_dir: Option<PathBuf>,
    /// How the linears are held.
    pub linears: Linears,
}

/// How a base's linears are held. Everything else is in bf16 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linears {
    /// NF4 with double quantisation; those of a bitsandbytes directory as they are.
    #[default]
    Nf4,
    /// As published, rounded to bf16 where they are in anything wider.
    Bf16,
    /// Unrounded: in bf16 where that is what the file has, else in f32. For activations in f32.
    F32,
}

/// Refuses by its looks what cannot be a model: a file that is not called .gguf, a directory
/// with neither config.json nor tokenizer.json, an adapter, files that git-lfs has not brought yet.
pub fn check_source(source: &Path) -> Result<(), Error> {
    if source.is_dir() {
        let has = |name: &str| source.join(name).exists();
        if has("adapter_config.json") && !has("config.json") {
            return Err(Error::Adapter { path: source.into() });
        }
        if !has("config.json") && !has("tokenizer.json") {
            return Err(Error::NoModel { path: source.into() });
        }
        return match lfs_pointer(source) {
            Some(path) => Err(Error::LfsPointer { path }),
            None => Ok(()),
        };
    }
    match source.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => match is_lfs_pointer(source) {
            true => Err(Error::LfsPointer { path: source.into() }),
            false => Ok(()),
        },
        _ if source.exists() => Err(Error::Source { path: source.into() }),
        _ => Ok(()),
    }
}

/// The first git-lfs pointer in place of weights or a tokenizer, by name.
fn lfs_pointer(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let ours = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "safetensors" || extension == "json")
    };
    entries.filter(ours).filter(|path| is_lfs_pointer(path)).min()
}

fn is_lfs_pointer(path: &Path) -> bool {
    const START: &[u8] = b"version https://git-lfs.github.com/spec/";
    let mut start = [0; START.len()];
    let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == START
}

/// Loads the model at `source`, a Hub directory or a `.gguf` file, its linears as `options` say, everything else
/// in bf16. What is in bf16 in a Hub directory is used where it lies in the mapped file, without a copy.
///
/// Runs in the current rayon pool (`cpu.install(|| load(..))` uses a device's); the result does not
/// depend on the number of threads. With a cache directory the quantised model is written there
/// once and mapped from then on; trouble with the cache is logged and never stops a load.
///
/// Errors: see [`Error`]. What is not supported is refused by name before any tensor is read.
pub fn load(source: &Path, options: &LoadOptions, report: Report) -> Result<Weights, Error> {
    let metadata = std::fs::metadata(source).map_err(|error| Error::Io {
        doing: "opening",
        path: source.into(),
        source: error,
    })?;
    check_source(source)?;
    let model = match source.extension() {
        _ if metadata.is_dir() => Model::Hub(Checkpoint::open(source)?),
        Some(extension) if extension.eq_ignore_ascii_case("gguf") => open_gguf(source)?,
        _ => return Err(Error::Source { path: source.into() }),
    };
    let name = name_of(source);
    let digest = model.digest(report);
    let identity = format!("{name} (sha256-tree {})", hash::hex(&digest[..8]));
    match &options.cache_dir {
        Some(dir) if model.is_quantised_here(options.linears) => {
            let key = model.key(&digest);
            let file = cache::file(dir, &name, &key);
            through_cache(&model, &file, &key, identity, report)
        }
        _ => model.load(options.linears, identity, report),
    }
}

/// The source's own name, also of `.` and `..`; of a snapshot in Hugging Face's cache the model's name on
/// the Hub and the commit.
fn name_of(source: &Path) -> String {
    let absolute = source.canonicalize().unwrap_or_else(|_| source.into());
    let parts: Vec<&str> = absolute.iter().filter_map(|part| part.to_str()).collect();
    if let [.., folder, "snapshots", commit] = parts[..]
        && let Some(repo) = folder.strip_prefix("models--")
    {
        let commit: String = commit.chars().take(7).collect();
        return format!("{}@{commit}", repo.replacen("--", "/", 1));
    }
    let name = source.file_name().or(absolute.file_name());
    name.map_or("model".into(), |name| name.to_string_lossy().into_owned())
}

fn through_cache(
    model: &Model,
    file: &Path,
    key: &[u8; 32],
    identity: String,
    report: Report,
) -> Result<Weights, Error> {
    if file.exists() {
        match from_cache(model, file, key, &identity) {
            Ok(weights) => return Ok(weights),
            Err(problem) => tracing::warn!(
                file = %file.display(), problem, "the NF4 cache is damaged and is built again"
            ),
        }
    }
    let weights = model.load(Linears::Nf4, identity.clone(), report)?;
    report(Progress { stage: "caching", done: 0, total: 1, unit: "files" });
    let written = cache::write(file, key, &weights);
    report(Progress { stage: "caching", done: 1, total: 1, unit: "files" });
    if let Err(problem) = written {
        tracing::warn!(file = %file.display(), %problem, "the NF4 cache could not be written");
        return Ok(weights);
    }
    // The mapped copy is taken even now: its memory is the page cache's, not ours. Both at once would be
    // the model twice.
    drop(weights);
    from_cache(model, file, key, &identity).or_else(|problem| {
        tracing::warn!(file = %file.display(), problem, "the NF4 cache cannot be read back");
        model.load(Linears::Nf4, identity, report)
    })
}

fn from_cache(
    model: &Model,
    file: &Path,
    key: &[u8; 32],
    identity: &str,
) -> Result<Weights, String> {
    let bytes = Bytes::map(file).map_err(|error| error.to_string())?;
    cache::read(&bytes, key, model.config(), identity.into()).map_err(|damage| damage.to_string())
}

/// An opened source whose configuration and tensor shapes are known to be right.
enum Model {
    Hub(Checkpoint),
    #[cfg(feature = "gguf")]
    Gguf {
        gguf: Gguf,
        config: LlamaConfig,
        bytes: Bytes,
    },
}

#[cfg(feature = "gguf")]
fn open_gguf(source: &Path) -> Result<Model, Error> {
    let bytes = Bytes::map(source).map_err(|error| Error::Io {
        doing: "opening",
        path: source.into(),
        source: error,
    })?;
    let gguf = Gguf::read(source, &bytes)?;
    let config = gguf.config()?;
    gguf.check_tensors(&config)?;
    Ok(Model::Gguf { gguf, config, bytes })
}

#[cfg(not(feature = "gguf"))]
fn open_gguf(source: &Path) -> Result<Model, Error> {
    Err(Error::NoGguf { path: source.into() })
}

impl Model {
    fn config(&self) -> &LlamaConfig {
        match self {
            Model::Hub(checkpoint) => &checkpoint.config,
            #[cfg(feature = "gguf")]
            Model::Gguf { config, .. } => config,
        }
    }

    fn is_quantised_here(&self, held: Linears) -> bool {
        let is_float = match self {
            Model::Hub(checkpoint) => checkpoint.storage == Storage::Float,
            #[cfg(feature = "gguf")]
            Model::Gguf { .. } => true,
        };
        is_float && held == Linears::Nf4
    }

    /// Every file that the weights depend on.
    fn files(&self) -> Vec<(&Path, &Bytes)> {
        match self {
            Model::Hub(checkpoint) => std::iter::once(&checkpoint.config_file)
                .chain(&checkpoint.shards.files)
                .map(|(path, bytes)| (path.as_path(), bytes))
                .collect(),
            #[cfg(feature = "gguf")]
            Model::Gguf { gguf, bytes, .. } => vec![(&gguf.path, bytes)],
        }
    }

    /// The content hash. The name of a single file is not content: the same GGUF under another
    /// name is the same model.
    fn digest(&self, report: Report) -> [u8; 32] {
        let files = self.files();
        let total: u64 = files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let progress = |done| Progress { stage: "loading", done, total, unit: "bytes" };
        report(progress(0));
        let named = files.iter().enumerate().map(|(i, (path, bytes))| {
            // One file's pages at a time.
            files[..i].last().inspect(|(_, before)| before.release());
            let name = if files.len() == 1 { None } else { path.file_name() };
            (name.and_then(|name| name.to_str()).unwrap_or_default(), &bytes[..])
        });
        let digest = hash::files(named);
        files.last().inspect(|(_, bytes)| bytes.release());
        report(progress(total));
        digest
    }

    /// What a cache file is kept under: the content, the rules by which it is turned into NF4, and
    /// the modification times of files of which the hash saw only samples.
    fn key(&self, digest: &[u8; 32]) -> [u8; 32] {
        let mut key = Sha256::new();
        key.update(RULES);
        key.update(digest);
        for (path, bytes) in self.files() {
            if hash::is_sampled(bytes.len()) {
                key.update(modified(path).to_le_bytes());
            }
        }
        key.finalize().into()
    }

    fn load(&self, held: Linears, identity: String, report: Report) -> Result<Weights, Error> {
        match self {
            Model::Hub(checkpoint) => checkpoint.load(held, identity, report),
            #[cfg(feature = "gguf")]
            Model::Gguf { gguf, config, .. } => gguf::load(gguf, config, held, identity, report),
        }
    }
}

fn modified(path: &Path) -> u128 {
    let time = std::fs::metadata(path).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}
