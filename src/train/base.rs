//! A base model opened for use: device, weights, tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Error;
use crate::adapter::BaseModel;
use crate::device::cpu::Cpu;
use crate::model::tokenizer::TextTokenizer;
use crate::model::weights::Weights;
use crate::model::{self, LoadOptions};
use crate::progress::Report;

/// Everything that training, evaluation and generation share.
pub struct Base {
    pub cpu: Arc<Cpu>,
    pub weights: Arc<Weights>,
    pub tokenizer: TextTokenizer,
    /// As given.
    pub path: PathBuf,
    /// What the adapter's configuration calls it; the path until it is set.
    pub name: String,
}

impl Base {
    /// Opens the model at `path`. The tokenizer comes first: it is small, and what is wrong with
    /// it should not wait for the weights.
    pub fn open(path: &Path, cpu: Arc<Cpu>, report: Report) -> Result<Self, Error> {
        std::fs::metadata(path).map_err(|source| {
            let path = path.to_path_buf();
            model::Error::Io { doing: "opening the model", path, source }
        })?;
        let tokenizer = TextTokenizer::load(path)?;
        let options = LoadOptions { cache_dir: model::default_cache_dir() };
        let weights = cpu.install(|| model::load(path, &options, report))?;
        tokenizer.check_vocab(weights.config.vocab_size)?;
        let name = path.display().to_string();
        Ok(Self { cpu, weights: Arc::new(weights), tokenizer, path: path.into(), name })
    }

    /// What an adapter trained on this base says about it.
    pub fn about(&self) -> BaseModel {
        BaseModel {
            name: self.name.clone(),
            bytes: self.weights.identity().to_string(),
            quantization: "NF4, double quantised".into(),
        }
    }
}
