//! `dayrun bench`: how fast this machine trains.

use std::path::PathBuf;
use std::process::ExitCode;

use half::bf16;

use super::Terminal;
use super::output::{Failure, print};
use crate::config::RunFile;
use crate::train::Base;
use crate::train::bench::{self, BenchOptions};
use crate::train::device::Request;

/// Measure how fast this machine trains.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Train(TrainArgs),
}

/// Time the training step on random tokens.
#[derive(clap::Args)]
struct TrainArgs {
    /// The base model: a Hugging Face directory or a GGUF file.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Documents of a micro-batch.
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens of a document.
    #[arg(long, default_value_t = 512)]
    seq: usize,
    /// Steps that are measured.
    #[arg(long, default_value_t = 10)]
    steps: usize,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let What::Train(args) = &args.what;
    let run = RunFile::default();
    let base = Base::open(&args.model, &Request::of(&run), &|p| terminal.report(p))?;
    let options =
        BenchOptions { batch: args.batch, seq: args.seq, warmup: 2, steps: args.steps, r: 16 };
    let result = bench::train::<bf16>(&base, &options)?;
    terminal.clear();
    if args.json {
        print(&serde_json::to_string(&result).expect("numbers and names"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let total: f64 = result.step_seconds.iter().sum::<f64>() / result.step_seconds.len() as f64;
    let mut text = format!(
        "{:.0} tok/s, {:.2} GB, {:.1} % of {:.0} GFLOP/s\n",
        result.tok_s,
        result.rss_gb,
        100.0 * result.peak_fraction,
        result.peak_flops / 1e9
    );
    for (name, seconds) in &result.seconds_per_op {
        text += &format!("{:>9.1} ms {:>5.1} %  {name}\n", 1e3 * seconds, 100.0 * seconds / total);
    }
    let ops: f64 = result.seconds_per_op.iter().map(|(_, s)| s).sum();
    text += &format!(
        "{:>9.1} ms {:>5.1} %  outside ops",
        1e3 * (total - ops),
        100.0 * (1.0 - ops / total)
    );
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}
