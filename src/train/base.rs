//! A base model opened for use: device, weights, tokenizer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::device::{Device, Request};
use crate::Error;
use crate::adapter::BaseModel;
#[cfg(feature = "cuda")]
use crate::config::Nf4Linear;
use crate::config::RunFile;
use crate::device::cpu::Cpu;
#[cfg(feature = "cuda")]
use crate::model::cuda::Gpu;
use crate::model::tokenizer::TextTokenizer;
use crate::model::weights::Weights;
use crate::model::{self, LoadOptions, Loaded};
use crate::progress::Report;

/// What others, who load an adapter with PEFT, call the model at `path`: its name on the Hub, if it is from
/// there, else the path. PEFT opens no GGUF file, so the repository of one is no name for it.
fn name_for_others(path: &Path) -> String {
    #[cfg(feature = "cli")]
    if let Some(Ok(address)) = model::source::Address::of(path).map(model::source::Address::parse)
        && address.file.is_none()
    {
        return address.repo;
    }
    path.display().to_string()
}

/// Everything that training, evaluation and generation share.
pub struct Base {
    pub cpu: Arc<Cpu>,
    /// What computes.
    pub device: Device,
    pub weights: Arc<Weights>,
    /// The weights on the GPU that computes, if one does.
    #[cfg(feature = "cuda")]
    pub gpu: Option<Gpu>,
    pub tokenizer: TextTokenizer,
    /// As given.
    pub path: PathBuf,
    /// What the adapter's configuration calls it; the path until it is set.
    pub name: String,
}

impl Base {
    /// Opens the model at `path` (or an `hf://` address) on the device that was asked for. The device and the tokenizer come
    /// first: what is wrong with them should not wait for the weights.
    pub fn open(path: &Path, request: &Request, report: Report) -> Result<Self, Error> {
        #[cfg_attr(not(feature = "cuda"), expect(unused_mut))]
        let mut device = Device::open(request)?;
        let cpu = device.cpu.clone();
        #[cfg(feature = "cli")]
        let local = model::source::local(path, report)?;
        #[cfg(not(feature = "cli"))]
        let local = path;
        std::fs::metadata(&local).map_err(|source| {
            let path = path.to_path_buf();
            model::Error::Io { doing: "opening the model", path, source }
        })?;
        let tokenizer = TextTokenizer::load(&local)?;
        let options =
            LoadOptions { cache_dir: model::default_cache_dir(), linears: request.linears() };
        let weights = cpu.install(|| model::load(&local, &options, report))?;
        #[cfg(feature = "cuda")]
        device.check_model(request, &weights.config)?;
        tokenizer.check_vocab(path, weights.config.vocab_size)?;
        let name = name_for_others(path);
        #[cfg(feature = "cuda")]
        let gpu = device.load(request, &weights, report)?;
        let (weights, path) = (Arc::new(weights), path.into());
        Ok(Self {
            cpu,
            device,
            weights,
            #[cfg(feature = "cuda")]
            gpu,
            tokenizer,
            path,
            name,
        })
    }

    /// The run file of a run on this base, with the device and the ways that it uses.
    pub fn resolve(&self, run: &mut RunFile) {
        run.train.device = self.device.choice();
        if !self.device.is_gpu() {
            run.train.memory = None;
        }
        #[cfg(feature = "cuda")]
        if let (Some(gpu), Nf4Linear::Auto) = (&self.gpu, run.dispatch.nf4_linear) {
            run.dispatch.nf4_linear_source = Some(gpu.dispatch.source.clone());
            run.dispatch.nf4_linear_rows = Some(gpu.dispatch.linears.clone());
        }
    }

    /// What engines are made from.
    pub fn model(&self) -> Loaded {
        Loaded {
            cpu: self.cpu.clone(),
            weights: self.weights.clone(),
            #[cfg(feature = "cuda")]
            gpu: self.gpu.clone(),
        }
    }

    /// What an adapter trained on this base says about it.
    pub fn about(&self) -> BaseModel {
        BaseModel {
            name: self.name.clone(),
            bytes: self.weights.identity().to_string(),
            quantization: self.weights.held(),
            data: Vec::new(),
        }
    }
}
