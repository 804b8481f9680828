//! `dayrun bench`: how fast this machine is.

mod data;
mod generate;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use super::Terminal;
use super::device_args::DeviceArgs;
use super::output::Failure;
use crate::config::{ComputeDtype, Quantization, RunFile, Threads};
use crate::train::Base;
use crate::train::device::Request;

/// Measure how fast this machine trains, generates and reads data.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun bench train --model models/smol --batch 4 --seq 256     tokens a second of training
  dayrun bench generate --model models/smol --rows 32            reading prompts, and answering
  dayrun bench data --model models/smol train.jsonl              rows a second of reading data")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Train(train::Args),
    Generate(generate::Args),
    Data(data::Args),
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    match &args.what {
        What::Train(args) => train::run(args, terminal),
        What::Generate(args) => generate::run(args, terminal),
        What::Data(args) => data::run(args, terminal),
    }
}

/// What every benchmark of a model is told.
#[derive(clap::Args)]
struct BenchArgs {
    /// The base model: a Hugging Face directory, a GGUF file, or hf://org/name.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Type of the activations: bf16 or f32.
    #[arg(long, value_name = "TYPE", default_value = "bf16", value_parser = super::base_args::dtype)]
    compute_dtype: ComputeDtype,
    /// How the base's linear layers are held: nf4, or none (as published).
    #[arg(long, value_name = "TYPE", default_value = "nf4", value_parser = super::base_args::quantization)]
    quantization: Quantization,
    /// CPU threads: a number, or auto for as many as may run at once.
    #[arg(long, value_name = "N", default_value = "auto")]
    threads: Threads,
    #[command(flatten)]
    device: DeviceArgs,
    /// One line of JSON on standard output instead of a table.
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    fn open(&self, terminal: &Terminal) -> Result<Base, Failure> {
        let mut run = RunFile::default();
        run.train.compute_dtype = self.compute_dtype;
        run.model.quantization = self.quantization;
        run.train.threads = self.threads;
        self.device.lay_over(&mut run.train)?;
        let base = Base::open(&self.model, &Request::of(&run), &|p| terminal.report(p))?;
        terminal.note(&base.device.line());
        Ok(base)
    }
}
