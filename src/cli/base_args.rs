//! Which model to use: a run's, or one named with an adapter.

use std::path::PathBuf;
use std::sync::Arc;

use super::Terminal;
use super::output::Failure;
use crate::adapter::{Adapter, peft};
use crate::config::{self, ComputeDtype, RunFile};
use crate::device::cpu::Cpu;
use crate::train::Base;

/// Which model, which adapter, on what.
#[derive(clap::Args)]
pub struct BaseArgs {
    /// A run directory: its model, its adapter, its settings.
    #[arg(long, value_name = "DIR", required_unless_present = "model")]
    run: Option<PathBuf>,
    /// A base model: a Hugging Face directory or a GGUF file. With --run: instead of the run's.
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
    /// CPU threads; 0 takes one per core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

fn dtype(text: &str) -> Result<ComputeDtype, String> {
    match text {
        "bf16" => Ok(ComputeDtype::Bf16),
        "f32" => Ok(ComputeDtype::F32),
        _ => Err("expected bf16 or f32".into()),
    }
}

/// What the arguments come to.
pub(super) struct Opened {
    pub base: Base,
    pub adapter: Option<Adapter>,
    /// The run's file, or the defaults.
    pub run: RunFile,
}

impl BaseArgs {
    /// Loads it.
    pub(super) fn open(&self, terminal: &Terminal) -> Result<Opened, Failure> {
        let mut run = match &self.run {
            Some(dir) => config::load(&dir.join("run.toml"), &[]).map(|(run, _)| run)?,
            None => RunFile::default(),
        };
        if let Some(model) = &self.model {
            run.model.path = model.clone();
        }
        run.train.compute_dtype = self.compute_dtype.unwrap_or(run.train.compute_dtype);
        let cpu = Arc::new(Cpu::new(self.threads.unwrap_or(run.train.threads).min(1024)));
        let base = Base::open(&run.model.path, cpu, &|p| terminal.report(p))?;
        let dir = match (&self.adapter, &self.run) {
            (Some(dir), _) => Some(dir.clone()),
            (None, Some(run)) if !self.no_adapter => Some(run.join("adapter")),
            _ => None,
        };
        let adapter = dir.map(|dir| peft::load(&dir, &base.weights.config)).transpose()?;
        Ok(Opened { base, adapter, run })
    }
}
