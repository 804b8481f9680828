//! `dayrun bench data`: rows a second from files to packed micro-batches.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::Error;
use crate::cli::Terminal;
use crate::cli::output::{Failure, print};
use crate::config::Threads;
use crate::data::{DataOptions, Source};
use crate::model::default_cache_dir;
use crate::model::tokenizer::TextTokenizer;
use crate::train::bench_data::{DataBench, data};

/// Time the reading of data: from the files to packed micro-batches, as a run does it.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun bench data --model models/smol train.jsonl
  dayrun bench data --model models/smol data/ more.parquet --json     one line to keep

Only the model's tokenizer and chat template are loaded. Bad rows are left out.")]
pub struct Args {
    /// Where the tokenizer is: a model's Hugging Face directory or a GGUF file.
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// Files of rows (JSONL, JSON or Parquet), or directories of them.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The longest document, in tokens.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    max_length: u32,
    /// Tokens of a micro-batch, if documents are not longer.
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(2..=1_048_576))]
    micro_batch_tokens: u32,
    /// CPU threads: a number, or auto for as many as may run at once.
    #[arg(long, value_name = "N", default_value = "auto")]
    threads: Threads,
    /// One line of JSON on standard output instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    let tokenizer = TextTokenizer::load(&args.model).map_err(Error::from)?;
    let cache = default_cache_dir();
    let options = DataOptions {
        on_bad_row: crate::data::OnBadRow::Skip,
        cache_dir: cache.unwrap_or_else(std::env::temp_dir),
        ..DataOptions::new(args.max_length as usize)
    };
    let sources: Vec<Source> = args.files.iter().cloned().map(Source::from).collect();
    let tokens = args.micro_batch_tokens.max(args.max_length) as usize;
    let cpu = crate::device::cpu::Cpu::new(args.threads.count());
    let report = |progress| terminal.report(progress);
    let result = cpu.install(|| data(&sources, &tokenizer, &options, tokens, &report));
    terminal.clear();
    let result = result?;
    match args.json {
        true => print(&format!("{}\n", serde_json::json!(result)))?,
        false => print(&table(&result))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(result: &DataBench) -> String {
    let mut text = format!(
        "{:.0} rows/s, {:.0} tokens/s on {} threads\n{} rows, {} documents, {} tokens, {} of them with loss\n\
         {} micro-batches, {:.1} % full\n{:.1} s of reading and tokenising, {:.1} s of packing\n",
        result.rows_per_second,
        result.tokens_per_second,
        result.threads,
        result.rows,
        result.documents,
        result.tokens,
        result.loss_tokens,
        result.micro_batches,
        100.0 * result.utilisation,
        result.reading_seconds,
        result.packing_seconds,
    );
    if let Some(rss) = result.rss_mb {
        let place = if result.on_disk { "; the tokens are in a file" } else { "" };
        text += &format!("{rss:.0} MB of memory at the most{place}\n");
    }
    text
}
