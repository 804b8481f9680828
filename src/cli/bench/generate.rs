//! `dayrun bench generate`: tokens a second of reading prompts and of answering.

use std::process::ExitCode;

use half::bf16;
use serde_json::{Map, Value};

use super::BenchArgs;
use crate::cli::Terminal;
use crate::cli::output::{Failure, print};
use crate::config::ComputeDtype;
use crate::train::bench_generate::{self, GenerateBench, GenerateOptions};

/// Time generation: prompts of random tokens are read (prefill), then answered greedily (decode).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun bench generate --model models/smol                       one row, as dayrun generate has it
  dayrun bench generate --model models/smol --rows 32             32 rows at once, as dayrun eval
  dayrun bench generate --model models/smol --prompt 512 --new 8  a long prompt, a short answer
  dayrun bench generate --model models/smol --json                one line to keep

Rates are medians over the rounds, after one that is not counted. The prefill's ends with the first
token of every row; the decode's counts the tokens of all rows, the choice of each included.")]
pub struct Args {
    #[command(flatten)]
    bench: BenchArgs,
    /// Rows that are answered at once.
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    rows: u32,
    /// Tokens of a prompt.
    #[arg(long, value_name = "P", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    prompt: u32,
    /// Tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    new: u32,
    /// Rounds to measure.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let base = args.bench.open(terminal)?;
    let (tokens, positions) = (args.prompt + args.new, base.weights.config.max_position_embeddings);
    if tokens as usize > positions {
        return Err(Failure::new(
            format!("--prompt and --new make {tokens} tokens, the model takes {positions}"),
            "shorten one of them",
        ));
    }
    let options = GenerateOptions {
        rows: args.rows as usize,
        prompt: args.prompt as usize,
        new: args.new as usize,
        rounds: args.rounds as usize,
    };
    let report = |progress| terminal.report(progress);
    let result = match args.bench.compute_dtype {
        ComputeDtype::Bf16 => bench_generate::generate::<bf16>(&base, &options, &report),
        ComputeDtype::F32 => bench_generate::generate::<f32>(&base, &options, &report),
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

fn table(result: &GenerateBench) -> String {
    let mut text = format!(
        "{} on {}, {} threads, {}\nthe base's linears in {}\nprefill {:>8.1} tokens/s ({} of {} tokens)\n\
         decode  {:>8.1} tokens/s ({} tokens each)\n",
        if result.rows == 1 { "1 row".into() } else { format!("{} rows", result.rows) },
        result.device,
        result.threads,
        result.compute_dtype,
        result.weights,
        result.prefill_tok_s,
        result.rows,
        result.prompt,
        result.decode_tok_s,
        result.new,
    );
    if let Some(rss) = result.rss_gb {
        text += &format!("{rss:.2} GB of memory at the most\n");
    }
    text += "\n  ms prefill       %   ms a step       %\n";
    let seconds = |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_f64);
    let (prefill, decode) = (&result.seconds_per_op.prefill, &result.seconds_per_op.decode);
    let total = |map: &Map<String, Value>| map.values().filter_map(Value::as_f64).sum::<f64>();
    let (prefill_total, decode_total) = (total(prefill), total(decode));
    for name in prefill.keys() {
        let read = seconds(prefill, name).unwrap_or(f64::NAN);
        let step = seconds(decode, name).unwrap_or(f64::NAN);
        text += &format!(
            "{:>12.2} {:>7.1} {:>11.3} {:>7.1}  {name}\n",
            1e3 * read,
            100.0 * read / prefill_total,
            1e3 * step,
            100.0 * step / decode_total
        );
    }
    text
}
