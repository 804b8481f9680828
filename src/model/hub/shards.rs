//! The safetensors files of a Hub directory, mapped: one file, or shards and their index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use serde::Deserialize;

use crate::device::bytes::Bytes;
use crate::model::Error;
use crate::quant::bnb::RawTensor;

/// All tensors of a checkpoint, by name.
pub struct Shards {
    /// The mapped files, in the order of their names.
    pub files: Vec<(PathBuf, Bytes)>,
    tensors: BTreeMap<String, (usize, RawTensor)>,
    /// For messages about tensors that are in no file.
    index: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads an index: which shard each tensor is in. Every shard is a file beside the index.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, Error> {
    let io = |source| Error::Io { doing: "reading", path: path.into(), source };
    let text = std::fs::read(path).map_err(io)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { path: path.into(), source })?;
    let is_plain = |name: &str| {
        Path::new(name).components().count() == 1
            && !name.starts_with('.')
            && !name.contains(['/', '\\'])
    };
    match index.weight_map.values().find(|name| !is_plain(name)) {
        None => Ok(index.weight_map),
        Some(name) => Err(Error::Index {
            path: path.into(),
            problem: format!("`{name}` is not the name of a shard"),
        }),
    }
}

/// The length that a safetensors file's header asks for, where there is a header.
fn announced(bytes: &[u8]) -> Option<usize> {
    let (len, rest) = bytes.split_first_chunk::<8>()?;
    let header = usize::try_from(u64::from_le_bytes(*len)).ok()?;
    let tensors: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(rest.get(..header)?).ok()?;
    let end = |tensor: &serde_json::Value| tensor["data_offsets"][1].as_u64();
    let end = usize::try_from(tensors.values().filter_map(end).max()?).ok()?;
    end.checked_add(8)?.checked_add(header)
}

/// What a directory without safetensors that can be read has instead, as a person would say it.
fn other_weights(dir: &Path) -> Option<String> {
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    let with = |ends: &[&str]| {
        let of =
            |path: &&PathBuf| path.extension().is_some_and(|e| ends.iter().any(|end| e == *end));
        Some(files.iter().find(of)?.file_name()?.to_string_lossy().into_owned())
    };
    if let Some(shard) = with(&["safetensors"]) {
        return Some(format!("{shard} is there, but not the index that names all shards"));
    }
    if let Some(file) = with(&["gguf"]) {
        return Some(format!("{file} is there, which is a model by itself"));
    }
    let pickled = with(&["bin", "pth", "pt"])?;
    Some(format!("{pickled} is there, but weights pickled by PyTorch are not read"))
}

fn distinct(weight_map: &BTreeMap<String, String>) -> Vec<&str> {
    let mut names: Vec<&str> = weight_map.values().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The files that an index names, in order.
///
/// Errors: [`Error::Io`], [`Error::Json`], [`Error::Index`].
pub fn shard_names(index: &Path) -> Result<Vec<String>, Error> {
    Ok(distinct(&read_index(index)?).into_iter().map(str::to_string).collect())
}

impl Shards {
    /// Maps model.safetensors in `dir`, or the shards that model.safetensors.index.json names.
    ///
    /// Errors: [`Error::NoWeights`]; [`Error::MissingShards`]; [`Error::Io`]; [`Error::Index`];
    /// [`Error::Truncated`]; [`Error::Safetensors`] for a file whose header is not valid.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let single = dir.join("model.safetensors");
        let index_path = dir.join("model.safetensors.index.json");
        if single.exists() {
            let mut shards =
                Self { files: vec![], tensors: BTreeMap::new(), index: single.clone() };
            shards.add(single)?;
            return Ok(shards);
        }
        if !index_path.exists() {
            return Err(Error::NoWeights { path: dir.into(), instead: other_weights(dir) });
        }
        let weight_map = read_index(&index_path)?;
        let names = distinct(&weight_map);
        let absent = names.iter().filter(|name| !dir.join(name).exists());
        let missing: Vec<String> = absent.map(|name| name.to_string()).collect();
        if !missing.is_empty() {
            return Err(Error::MissingShards { path: index_path, missing, of: names.len() });
        }
        let mut shards =
            Self { files: vec![], tensors: BTreeMap::new(), index: index_path.clone() };
        for name in names {
            shards.add(dir.join(name))?;
        }
        for (tensor, file) in &weight_map {
            let found = shards.tensors.get(tensor).map(|(at, _)| &shards.files[*at].0);
            if found != Some(&dir.join(file)) {
                let problem = format!("tensor `{tensor}` is not in `{file}`");
                return Err(Error::Index { path: index_path, problem });
            }
        }
        Ok(shards)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let io = |source| Error::Io { doing: "opening", path: path.clone(), source };
        let bytes = Bytes::map(&path).map_err(io)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(|source| {
            let (path, found) = (path.clone(), bytes.len());
            match announced(&bytes) {
                Some(expected) if expected > found => Error::Truncated { path, found, expected },
                _ => Error::Safetensors { path, source },
            }
        })?;
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let data = bytes.window(8 + header + start, end - start);
            let Some(data) = data else {
                return Err(Error::Index {
                    path,
                    problem: format!("tensor `{name}` lies outside the file"),
                });
            };
            let raw = RawTensor { dtype: info.dtype, shape: info.shape.clone(), data };
            if self.tensors.insert(name.clone(), (self.files.len(), raw)).is_some() {
                return Err(Error::Index {
                    path,
                    problem: format!("tensor `{name}` is in another shard too"),
                });
            }
        }
        self.files.push((path, bytes));
        Ok(())
    }

    /// The tensor, if it is there.
    pub fn get(&self, name: &str) -> Option<&RawTensor> {
        self.tensors.get(name).map(|(_, raw)| raw)
    }

    /// The tensor, or [`Error::MissingTensor`].
    pub fn tensor(&self, name: &str) -> Result<&RawTensor, Error> {
        self.get(name)
            .ok_or_else(|| Error::MissingTensor { path: self.index.clone(), tensor: name.into() })
    }

    /// The file that a tensor is in, for messages.
    pub fn path(&self, name: &str) -> &Path {
        self.tensors.get(name).map_or(&self.index, |(file, _)| &self.files[*file].0)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }
}
