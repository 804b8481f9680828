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

impl Shards {
    /// Maps model.safetensors in `dir`, or the shards that model.safetensors.index.json names.
    ///
    /// Errors: [`Error::NoWeights`]; [`Error::Io`]; [`Error::Index`]; [`Error::Safetensors`] for a
    /// file whose header is not valid or does not fit its size.
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
            return Err(Error::NoWeights { path: dir.into() });
        }
        let problem = |problem| Error::Index { path: index_path.clone(), problem };
        let text = std::fs::read(&index_path).map_err(|source| Error::Io {
            doing: "reading",
            path: index_path.clone(),
            source,
        })?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: index_path.clone(), source })?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        let mut shards =
            Self { files: vec![], tensors: BTreeMap::new(), index: index_path.clone() };
        for name in names {
            if Path::new(name).components().count() != 1 || name.starts_with('.') {
                return Err(problem(format!("`{name}` is not the name of a shard")));
            }
            shards.add(dir.join(name))?;
        }
        for (tensor, file) in &index.weight_map {
            let found = shards.tensors.get(tensor).map(|(at, _)| &shards.files[*at].0);
            if found != Some(&dir.join(file)) {
                return Err(problem(format!("tensor `{tensor}` is not in `{file}`")));
            }
        }
        Ok(shards)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), Error> {
        let io = |source| Error::Io { doing: "opening", path: path.clone(), source };
        let bytes = Bytes::map(&path).map_err(io)?;
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|source| Error::Safetensors { path: path.clone(), source })?;
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
