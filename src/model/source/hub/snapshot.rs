//! A whole model: which of a repository's files are needed, fetched or found in the cache.

use std::path::{Path, PathBuf};

use super::cache::{Folder, free};
use super::client::{Client, Description, Metadata, Source};
use super::download::{Meter, download};
use super::{Address, Hub, HubError};
use crate::model::hub::{config, shards};
use crate::progress::Report;

/// What makes up a model beside its weights. The first two are needed.
const FILES: [&str; 6] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
];
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Hub {
    /// The directory (or GGUF file) of a model in the cache; what of it is not there yet is fetched:
    /// configuration and tokenizer first, then, if the configuration is one that dayrun can read, the
    /// weights in safetensors.
    ///
    /// When the Hub cannot be reached, a model that is wholly in the cache will do.
    ///
    /// Errors: [`HubError`].
    pub fn fetch(&self, address: &Address, report: Report) -> Result<PathBuf, HubError> {
        let folder = Folder::of(self, &address.repo)?;
        let cached = cached(&folder, address);
        if self.offline {
            return cached.map_err(|missing| HubError::NotCached {
                address: address.to_string(),
                path: folder.path().into(),
                missing,
            });
        }
        // A branch moves on, a commit does not.
        if let (Ok(path), true) = (&cached, is_commit(&address.revision)) {
            return Ok(path.clone());
        }
        let client = Client::new(self);
        let description = persist(self, || client.describe(&address.repo, &address.revision));
        match (description, cached) {
            (Ok(description), _) => fetch(&client, address, &folder, &description, report),
            (Err(error), Ok(path)) if error.is_unreachable() => {
                tracing::warn!(%error, path = %path.display(), "{address} is taken from the cache");
                Ok(path)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// The model in the cache, or what of it is missing.
fn cached(folder: &Folder, address: &Address) -> Result<PathBuf, String> {
    let commit = folder.commit(&address.revision);
    let commit = commit.ok_or_else(|| format!("no commit of `{}`", address.revision))?;
    let snapshot = folder.snapshot(&commit);
    let there = |name: &str| match snapshot.join(name).exists() {
        true => Ok(snapshot.join(name)),
        false => Err(format!("no {name}")),
    };
    if let Some(file) = &address.file {
        return there(file);
    }
    there(FILES[0])?;
    there(FILES[1])?;
    if there(SINGLE).is_err() {
        let index = there(INDEX).map_err(|_| format!("no {SINGLE}, and no {INDEX}"))?;
        let shards = shards::shard_names(&index).map_err(|error| error.to_string())?;
        shards.iter().try_for_each(|shard| there(shard).map(drop))?;
    }
    Ok(snapshot)
}

fn fetch(
    client: &Client,
    address: &Address,
    folder: &Folder,
    description: &Description,
    report: Report,
) -> Result<PathBuf, HubError> {
    let (repo, commit) = (&address.repo, &description.commit);
    // It names a folder.
    if !is_commit(commit) {
        let problem = format!("{commit:?} is no commit");
        return Err(HubError::Answer { url: client.hub.endpoint.clone(), problem });
    }
    let snapshot = folder.snapshot(commit);
    let get = |stage, names: &[String]| {
        let missing: Vec<&String> =
            names.iter().filter(|name| !snapshot.join(name).exists()).collect();
        fetch_files(client, folder, repo, commit, &missing, stage, report)
    };
    let has = |name: &str| description.siblings.iter().any(|sibling| sibling.name == name);
    let needed = |name: &str| match has(name) {
        true => Ok(()),
        false => Err(HubError::NoFile { repo: repo.clone(), file: name.into() }),
    };
    if let Some(file) = &address.file {
        needed(file)?;
        get("fetching the model", std::slice::from_ref(file))?;
        folder.remember(&address.revision, commit)?;
        return Ok(snapshot.join(file));
    }
    let weights = weights_name(repo, description)?;
    needed(FILES[0])?;
    needed(FILES[1])?;
    let names = FILES.iter().copied().filter(|name| has(name)).chain([weights]);
    let small: Vec<String> = names.filter(|name| *name != SINGLE).map(str::to_string).collect();
    get("fetching the configuration", &small)?;
    // Gigabytes are not fetched for a model that cannot be read.
    config::read(&snapshot.join(FILES[0])).map_err(Box::new)?;
    let large = match weights {
        SINGLE => vec![SINGLE.to_string()],
        index => shards::shard_names(&snapshot.join(index)).map_err(Box::new)?,
    };
    get("fetching the model", &large)?;
    folder.remember(&address.revision, commit)?;
    Ok(snapshot)
}

fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

/// The file that the weights begin with: all of them, or the index of the shards.
fn weights_name(repo: &str, description: &Description) -> Result<&'static str, HubError> {
    let names = || description.siblings.iter().map(|sibling| sibling.name.as_str());
    if let Some(name) = [SINGLE, INDEX].into_iter().find(|wanted| names().any(|n| n == *wanted)) {
        return Ok(name);
    }
    let gguf = names().find(|name| name.ends_with(".gguf")).map(str::to_string);
    let count = |end: &str| names().filter(|name| name.ends_with(end)).count();
    let instead = if gguf.is_some() {
        format!("{} GGUF files", count(".gguf"))
    } else if names().any(|name| name == "adapter_config.json") {
        "it is an adapter".into()
    } else if count(".bin") + count(".pth") > 0 {
        "only PyTorch's pickled weights".into()
    } else {
        String::new()
    };
    Err(HubError::NoWeights { repo: repo.into(), instead, gguf })
}

/// Fetches files in the order given, after a look at the room on the disk.
fn fetch_files(
    client: &Client,
    folder: &Folder,
    repo: &str,
    commit: &str,
    names: &[&String],
    stage: &'static str,
    report: Report,
) -> Result<(), HubError> {
    let source = |name| Source { repo, commit, file: name };
    let files: Vec<(&String, Metadata)> = names
        .iter()
        .map(|name| Ok((*name, persist(client.hub, || client.metadata(source(name)))?)))
        .collect::<Result<_, HubError>>()?;
    let left = |metadata: &Metadata| {
        let len = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let blob = folder.blob(&metadata.etag);
        metadata.size.saturating_sub(len(&blob).max(len(&blob.with_extension("part"))))
    };
    let needed: u64 = files.iter().map(|(_, metadata)| left(metadata)).sum();
    if let Some(free) = free(folder.path()).filter(|free| *free < needed) {
        let path = folder.path().to_path_buf();
        return Err(HubError::NoRoom { repo: repo.into(), path, needed, free });
    }
    if files.is_empty() {
        return Ok(());
    }
    let meter = Meter::new(stage, files.iter().map(|(_, metadata)| metadata.size).sum(), report);
    for (name, metadata) in &files {
        download(client, folder, source(name), metadata, &meter)?;
    }
    Ok(())
}

/// Makes a small request until it is answered, or the hub's patience is at its end.
fn persist<T>(hub: &Hub, ask: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
    let mut pause = hub.pause;
    for _ in 1..hub.tries {
        match ask() {
            Err(error) if error.is_passing() => tracing::info!(%error, "asking once more"),
            answer => return answer,
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
    ask()
}
