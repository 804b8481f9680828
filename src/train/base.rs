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
use crate::model::hub::{self, config::Storage};
use crate::model::tokenizer::TextTokenizer;
use crate::model::weights::{Matrix, Weights};
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

/// Parameters of a model that need not be quantised.
const SMALL: usize = 1_000_000_000;
/// Bytes of a weight in NF4: 4 bits, and 8 bits of scale for 64 of them.
const NF4_BYTES: f64 = 0.5 + 1.0 / 64.0;

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
    /// Whether its files have the linears in 4 bits, so that they cannot be held in more.
    pub in_4_bits: bool,
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
        let local = std::borrow::Cow::Borrowed(path);
        std::fs::metadata(&local).map_err(|source| {
            let path = path.to_path_buf();
            model::Error::Io { doing: "opening the model", path, source }
        })?;
        let tokenizer = TextTokenizer::load(&local)?;
        let options =
            LoadOptions { cache_dir: model::default_cache_dir(), linears: request.linears() };
        let weights = cpu.install(|| model::load(&local, &options, report))?;
        let config = hub::config::read(&local.join("config.json"));
        let in_4_bits = config.is_ok_and(|(_, storage)| storage == Storage::Bitsandbytes4bit);
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
            in_4_bits,
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

    /// What a person should know who quantises a small base: on the CPU a step of SmolLM2-135M takes 5 % less
    /// time in bf16 (docs/LOG.md), and what NF4 saves there is little.
    pub fn hint(&self) -> Option<String> {
        let (linears, all) = self.weights.parameters();
        let is_nf4 = |linear: &Matrix| linear.as_nf4().is_some();
        let mut quantised = self.weights.layers.iter().flat_map(|layer| &layer.linears);
        if self.in_4_bits || all > SMALL || !quantised.all(is_nf4) {
            return None;
        }
        let more = linears as f64 * (2.0 - NF4_BYTES) / 1e9;
        Some(format!(
            "hint: this base has {:.2} billion parameters; model.quantization = \"none\" trains on its weights in \
             bf16, without NF4's error, on a CPU no slower, and takes {more:.2} GB more memory",
            all as f64 / 1e9
        ))
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
