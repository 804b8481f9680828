//! What an adapter is, without its model: its configuration, its tensors, and how far it was trained.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::PeftError;
use super::lora::LoraConfig;
use super::peft::{self, CONFIG, TENSORS};
use super::peft_config::Read;
use crate::device::bytes::Bytes;
use crate::model::config::LlamaConfig;

/// An adapter on the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInfo {
    /// The directory's name, or the run's, for a run's own `adapter`.
    pub name: String,
    pub path: PathBuf,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
    pub config: LoraConfig,
    /// Modules that have an A in the file.
    pub modules: usize,
    /// Every rank that occurs, in order.
    pub ranks: Vec<usize>,
    /// Types of the tensors: `F32`.
    pub dtypes: Vec<String>,
    /// Elements of all tensors.
    pub parameters: usize,
    /// Size of adapter_model.safetensors.
    pub bytes: u64,
    /// What dayrun's records say, where they lie beside the adapter.
    pub trained: Option<Trained>,
}

/// How far a run of dayrun has come.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// Updates so far.
    pub steps: u64,
    pub final_loss: Option<f64>,
    /// The run has ended, and by itself: it was not stopped, and nothing failed.
    pub finished: bool,
    /// The bytes of the base, as the run recorded them.
    pub base_bytes: Option<String>,
}

/// One adapter of a directory: what it is, or why it cannot be read.
#[derive(Debug)]
pub struct Listed {
    pub path: PathBuf,
    pub info: Result<AdapterInfo, PeftError>,
}

/// Every adapter in `dir`: itself, or its folders, or a run's `adapter` in them, by their paths.
/// One that is damaged or not supported stands in the list with its error.
///
/// Errors: `dir` cannot be read, or there is no adapter in it.
pub fn list(dir: &Path) -> Result<Vec<Listed>, PeftError> {
    let read = |source| PeftError::Read { path: dir.to_path_buf(), source };
    let mut found = Vec::new();
    let mut add = |path: &Path| {
        let here = [path.to_path_buf(), path.join("adapter")];
        found.extend(here.into_iter().find(|path| path.join(CONFIG).is_file()));
        !found.is_empty()
    };
    if !add(dir) {
        for entry in std::fs::read_dir(dir).map_err(read)? {
            add(&entry.map_err(read)?.path());
        }
    }
    if found.is_empty() {
        return Err(PeftError::NoAdapter { path: dir.to_path_buf() });
    }
    found.sort();
    let listed = |path: PathBuf| Listed { info: inspect(&path), path };
    Ok(found.into_iter().map(listed).collect())
}

/// What the adapter in `dir` is. Its tensors' values are not read.
pub fn inspect(dir: &Path) -> Result<AdapterInfo, PeftError> {
    let Read { config, base_model } = peft::read_config(dir)?;
    let path = dir.join(TENSORS);
    let bytes =
        Bytes::map(&path).map_err(|source| PeftError::Read { path: path.clone(), source })?;
    let file = peft::deserialize(&bytes, &path)?;
    let (mut ranks, mut dtypes) = (BTreeSet::new(), BTreeSet::new());
    let (mut modules, mut parameters) = (0, 0);
    for (name, view) in file.iter() {
        let elements: usize = view.shape().iter().product();
        parameters += elements;
        dtypes.insert(format!("{:?}", view.dtype()));
        if name.ends_with(peft::LORA_A) {
            modules += 1;
            ranks.extend(view.shape().first().copied());
        }
    }
    Ok(AdapterInfo {
        name: name_of(dir),
        path: dir.to_path_buf(),
        base_model,
        config,
        modules,
        ranks: ranks.into_iter().collect(),
        dtypes: dtypes.into_iter().collect(),
        parameters,
        bytes: bytes.len() as u64,
        trained: trained(dir),
    })
}

impl AdapterInfo {
    /// Whether it fits a model of this shape, which `name` names in messages: every module's
    /// tensors are there, of the right shapes, and no others.
    pub fn fits(&self, model: &LlamaConfig, name: &str) -> Result<(), PeftError> {
        let read = Read { config: self.config.clone(), base_model: self.base_model.clone() };
        let path = self.path.join(TENSORS);
        let bytes =
            Bytes::map(&path).map_err(|source| PeftError::Read { path: path.clone(), source })?;
        let file = peft::deserialize(&bytes, &path)?;
        peft::fit(&self.path, &read, &file, model, name).map(|_| ())
    }
}

/// `runs/first/adapter` is `first`.
fn name_of(dir: &Path) -> String {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let of_run = run_of(dir).and_then(name);
    of_run.or_else(|| name(dir)).unwrap_or_else(|| dir.display().to_string())
}

/// The run directory of a run's own adapter.
fn run_of(dir: &Path) -> Option<&Path> {
    let run = dir.parent().filter(|_| dir.ends_with("adapter"))?;
    run.join("run.toml").is_file().then_some(run)
}

/// The part of summary.json that is read.
#[derive(Deserialize)]
struct Summary {
    steps: u64,
    final_loss: Option<f64>,
    base_model: Option<String>,
    #[serde(default)]
    interrupted: bool,
    error: Option<String>,
}

/// The part of a line of metrics.jsonl that is read.
#[derive(Deserialize)]
struct Update {
    step: u64,
    loss: Option<f64>,
}

/// The run's summary, or while there is none its last update.
fn trained(dir: &Path) -> Option<Trained> {
    let run = run_of(dir)?;
    let summary = std::fs::read(run.join("summary.json")).ok();
    if let Some(summary) = summary.and_then(|text| serde_json::from_slice::<Summary>(&text).ok()) {
        return Some(Trained {
            steps: summary.steps,
            final_loss: summary.final_loss,
            finished: !summary.interrupted && summary.error.is_none(),
            base_bytes: summary.base_model,
        });
    }
    let end = end_of(&run.join("metrics.jsonl")).ok()?;
    let last: Update = end.lines().rev().find_map(|line| serde_json::from_str(line).ok())?;
    let Update { step: steps, loss: final_loss } = last;
    Some(Trained { steps, final_loss, finished: false, base_bytes: None })
}

/// The last lines of a file.
fn end_of(path: &Path) -> std::io::Result<String> {
    const LONGEST: u64 = 1 << 16;
    let mut file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LONGEST)))?;
    let mut end = Vec::new();
    file.take(LONGEST).read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::tests::{adapter, model, saved};

    /// Two runs, a checkpoint, a damaged one and a folder that is none.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, modules: &[&str]| {
            let to = dir.path().join(name);
            std::fs::create_dir_all(&to).unwrap();
            let from = saved(&adapter(modules));
            for file in ["adapter_config.json", "adapter_model.safetensors"] {
                std::fs::copy(from.path().join(file), to.join(file)).unwrap();
            }
        };
        place("a/adapter", &["q_proj"]);
        place("b/adapter", &["q_proj", "down_proj"]);
        place("checkpoint-7", &["k_proj"]);
        place("damaged", &["k_proj"]);
        std::fs::create_dir(dir.path().join("none")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        for run in ["a", "b"] {
            write(&format!("{run}/run.toml"), "");
        }
        let summary = "{\"steps\": 12, \"final_loss\": 1.5, \"base_model\": \"x (sha256 0)\", \
                       \"interrupted\": false, \"tokens\": 3}";
        write("a/summary.json", summary);
        write("b/metrics.jsonl", "{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"loss\":2.5}\n{\"st");
        write("damaged/adapter_model.safetensors", "{");
        dir
    }

    #[test]
    fn adapters_are_listed_with_what_is_known_of_them() {
        let dir = folder();
        let all = list(dir.path()).expect("adapters");
        let names: Vec<&Path> =
            all.iter().map(|one| one.path.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(names, ["a/adapter", "b/adapter", "checkpoint-7", "damaged"].map(Path::new));
        let info = |i: usize| all[i].info.as_ref().expect("readable");
        let a = info(0);
        assert_eq!((a.name.as_str(), a.modules, a.parameters), ("a", 2, 2 * 4 * (24 + 24)));
        assert_eq!((&a.ranks[..], &a.dtypes[..]), (&[4][..], &["F32".to_string()][..]));
        assert_eq!(a.base_model.as_deref(), Some("org/model"));
        let file = a.path.join("adapter_model.safetensors");
        assert_eq!(a.bytes, std::fs::metadata(file).unwrap().len());
        let trained = Trained {
            steps: 12,
            final_loss: Some(1.5),
            finished: true,
            base_bytes: Some("x (sha256 0)".into()),
        };
        assert_eq!(a.trained, Some(trained));
        let trained = info(1).trained.as_ref().expect("metrics");
        assert_eq!((trained.steps, trained.finished), (2, false));
        assert_eq!((info(2).name.as_str(), &info(2).trained), ("checkpoint-7", &None));
        let error = all[3].info.as_ref().expect_err("damaged").to_string();
        assert!(error.contains("damaged/adapter_model.safetensors: not a valid"), "{error}");
        // A run, and an adapter by itself.
        for (part, path) in [("b", "b/adapter"), ("checkpoint-7", "checkpoint-7")] {
            let one = list(&dir.path().join(part)).expect("one");
            assert_eq!((one.len(), &one[0].path), (1, &dir.path().join(path)));
        }
        let error = list(&dir.path().join("none")).expect_err("nothing there");
        assert!(error.to_string().contains("none: there is no adapter in it"), "{error}");
        assert!(error.hint().expect("advice").contains("adapter_config.json"));
    }

    #[test]
    fn whether_it_fits_is_told_without_reading_values() {
        let dir = saved(&adapter(&["q_proj", "down_proj"]));
        let info = inspect(dir.path()).expect("readable");
        info.fits(&model(), "org/model").expect("fits");
        let mut other = model();
        other.intermediate_size += 8;
        let error = info.fits(&other, "org/other").expect_err("another model").to_string();
        assert!(error.contains("mlp.down_proj` has another shape"), "{error}");
        assert!(error.contains("for org/model, the model loaded is org/other"), "{error}");
    }
}
