//! `dayrun bench train`: tokens a second of the training step.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use half::bf16;

use super::BenchArgs;
use crate::cli::Terminal;
use crate::cli::output::{Failure, print};
use crate::config::ComputeDtype;
use crate::train::bench::{self, BenchOptions, TrainBench};

/// Time the training step: a fresh adapter on all linears, random tokens, all of them with loss.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun bench train --model models/smol                          one document of 512 tokens a step
  dayrun bench train --model models/smol --batch 4 --seq 256
  dayrun bench train --model models/smol --lengths lengths.txt    documents as people have them, packed
  dayrun bench train --model models/smol --device cuda --json     one line to keep

tok_s is the median over the measured steps; it counts real tokens, nothing is padded. On the CPU the
peak is measured before and after: what the cores multiply at most, nothing else to do. peak_fraction
is the share of it that went into the operations which a step needs: 4 for each weight of a linear and
of the head, 6 for each of the adapter, 7·S·hidden a layer for attention over S tokens.")]
pub struct Args {
    #[command(flatten)]
    bench: BenchArgs,
    /// Documents in a micro-batch.
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Tokens of a document.
    #[arg(long, value_name = "S", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    seq: u32,
    /// Documents of these lengths instead, one number a line, packed into micro-batches.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["batch", "seq"])]
    lengths: Option<PathBuf>,
    /// Most tokens of a micro-batch, with --lengths.
    #[arg(long, value_name = "N", default_value_t = 1024, requires = "lengths", value_parser = clap::value_parser!(u32).range(2..=16_777_216))]
    micro_batch_tokens: u32,
    /// Steps to measure.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
    /// Steps before them.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    warmup: u32,
    /// Rank of the adapter.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    r: u32,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let options = args.options()?;
    let base = args.bench.open(terminal)?;
    let report = |progress| terminal.report(progress);
    let result = match args.bench.compute_dtype {
        ComputeDtype::Bf16 => bench::train::<bf16>(&base, &options, &report),
        ComputeDtype::F32 => bench::train::<f32>(&base, &options, &report),
    };
    terminal.clear();
    let result = result?;
    if args.bench.json {
        print(&format!("{}\n", serde_json::json!(result)))?;
    } else {
        print(&table(&result))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    fn options(&self) -> Result<BenchOptions, Failure> {
        let (lengths, micro_batch_tokens) = match &self.lengths {
            Some(path) => (read_lengths(path)?, self.micro_batch_tokens as usize),
            None => {
                let (batch, seq) = (self.batch as usize, self.seq as usize);
                (vec![seq; batch], batch.saturating_mul(seq))
            }
        };
        Ok(BenchOptions {
            lengths,
            micro_batch_tokens,
            warmup: self.warmup as usize,
            steps: self.steps as usize,
            r: self.r as usize,
        })
    }
}

/// One length a line; empty lines are passed over.
fn read_lengths(path: &Path) -> Result<Vec<usize>, Failure> {
    let failed = |what: String| {
        let hint = "give a file with the number of tokens of one document in each line, from 2 on";
        Failure::new(format!("reading --lengths {}: {what}", path.display()), hint)
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let mut lengths = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.trim().parse() {
            Ok(length) if (2..=1 << 20).contains(&length) => lengths.push(length),
            _ => return Err(failed(format!("line {}: {:?} is no length", i + 1, line.trim()))),
        }
    }
    if lengths.is_empty() { Err(failed("it is empty".into())) } else { Ok(lengths) }
}

fn table(result: &TrainBench) -> String {
    let mean = result.step_seconds.iter().sum::<f64>() / result.step_seconds.len() as f64;
    let mut text = format!(
        "{:.0} tokens/s on {}, {} threads, {}\nthe base's linears in {}\n\
         {:.0} tokens in {:.1} ms a step, {:.2} GFLOP a token\n",
        result.tok_s,
        result.device,
        result.threads,
        result.compute_dtype,
        result.weights,
        result.tokens_per_step,
        1e3 * mean,
        result.flops_per_token / 1e9
    );
    if let (Some(share), Some(peak)) = (result.peak_fraction, result.peak_gflop_s) {
        text += &format!("{:.1} % of the peak of {peak:.0} GFLOP/s\n", 100.0 * share);
    }
    if let Some(rss) = result.rss_gb {
        text += &format!("{rss:.2} GB of memory at the most\n");
    }
    text += "\n     ms a step       %\n";
    let seconds = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
    for (name, value) in &result.seconds_per_op {
        let seconds = seconds(value);
        text += &format!("{:>14.2} {:>7.1}  {name}\n", 1e3 * seconds, 100.0 * seconds / mean);
    }
    text
}
