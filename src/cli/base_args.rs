//! Which model to use: a run's, or one named with an adapter.

use std::path::{Path, PathBuf};

use super::Terminal;
use super::device_args::DeviceArgs;
use super::output::Failure;
use crate::adapter::{Adapter, peft};
use crate::config::{self, ComputeDtype, Quantization, RunFile, Threads};
use crate::train::Base;
use crate::train::device::Request;

/// Which model, which adapter, on what.
#[derive(clap::Args)]
pub struct BaseArgs {
    /// A run directory: its model, its adapter, its settings.
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// A base model: a Hugging Face directory, a GGUF file, or hf://org/name. With --run: instead of
    /// the run's.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
    /// A PEFT adapter directory. With --run: instead of the run's.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// With --run: the base model alone, without the run's adapter.
    #[arg(long, conflicts_with = "adapter")]
    no_adapter: bool,
    /// Type of the activations: bf16 or f32; without it, the run's, or bf16.
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    compute_dtype: Option<ComputeDtype>,
    /// How the base's linear layers are held: nf4 or none (as published); without it, the run's, or nf4.
    #[arg(long, value_name = "TYPE", value_parser = quantization)]
    quantization: Option<Quantization>,
    /// CPU threads: a number, or auto for as many as may run at once.
    #[arg(long, value_name = "N")]
    threads: Option<Threads>,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(super) fn dtype(text: &str) -> Result<ComputeDtype, String> {
    match text {
        "bf16" => Ok(ComputeDtype::Bf16),
        "f32" => Ok(ComputeDtype::F32),
        _ => Err("expected bf16 or f32".into()),
    }
}

pub(super) fn quantization(text: &str) -> Result<Quantization, String> {
    match text {
        "nf4" => Ok(Quantization::Nf4),
        "none" => Ok(Quantization::None),
        _ => Err("expected nf4 or none".into()),
    }
}

/// What the arguments come to.
pub(super) struct Opened {
    pub base: Base,
    pub adapter: Option<Adapter>,
    /// The run's file, or the defaults.
    pub run: RunFile,
    /// Whether there is a run.
    pub of_run: bool,
}

/// The run file of a run directory.
fn run_file_of(dir: &Path) -> Result<PathBuf, Failure> {
    let file = dir.join("run.toml");
    if file.exists() {
        return Ok(file);
    }
    let why = if dir.exists() { "it has no run.toml" } else { "it does not exist" };
    Err(Failure::new(
        format!("{} is not a run directory: {why}", dir.display()),
        "give the directory that a training has made: its --out, or runs/ and the run file's name",
    ))
}

impl BaseArgs {
    /// Loads it.
    pub(super) fn open(&self, terminal: &Terminal) -> Result<Opened, Failure> {
        let mut run = match &self.run {
            Some(dir) => config::load(&run_file_of(dir)?, &[]).map(|(run, _)| run)?,
            None => RunFile::default(),
        };
        if let Some(model) = &self.model {
            run.model.path = model.clone();
        }
        run.train.compute_dtype = self.compute_dtype.unwrap_or(run.train.compute_dtype);
        run.model.quantization = self.quantization.unwrap_or(run.model.quantization);
        self.device.lay_over(&mut run.train)?;
        let dir = match (&self.adapter, &self.run) {
            (Some(dir), _) => Some(dir.clone()),
            (None, Some(run)) if !self.no_adapter => Some(run.join("adapter")),
            _ => None,
        };
        if let Some(dir) = &dir {
            peft::check_config(dir)?;
        }
        run.train.threads = self.threads.unwrap_or(run.train.threads);
        let request = Request::of(&run);
        let base = Base::open(&run.model.path, &request, &|p| terminal.report(p))?;
        terminal.note(&base.device.line());
        let adapter =
            dir.map(|dir| peft::load(&dir, &base.weights.config, &base.name)).transpose()?;
        Ok(Opened { base, adapter, run, of_run: self.run.is_some() })
    }
}
