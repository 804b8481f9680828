//! `dayrun eval`: perplexity and exact match of a model, with or without an adapter.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use super::Terminal;
use super::base_args::BaseArgs;
use super::output::{Failure, NewFile, print};
use crate::Error;
use crate::data::{self, DataOptions};
use crate::train::run::{data_options, eval_files, evaluate_options, held_out, held_out_file};
use crate::train::{EvalFile, Evaluation, evaluate};

/// Measure perplexity, and how many greedy answers are word for word the expected ones.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun eval --run runs/run                        on the run's own evaluation files
  dayrun eval --run runs/run --no-adapter           the base model, to compare
  dayrun eval --run runs/run --device cuda:1        on the second GPU
  dayrun eval --model models/smol --adapter dir test.jsonl --rows rows.jsonl")]
pub struct Args {
    #[command(flatten)]
    base: BaseArgs,
    /// Files of rows (JSONL, JSON or Parquet) or directories of them; without any, the run's.
    files: Vec<PathBuf>,
    /// Write each row's loss, token count and answer to this JSONL file, which must be new.
    #[arg(long, value_name = "FILE")]
    rows: Option<PathBuf>,
    /// Measure perplexity only.
    #[arg(long)]
    no_exact_match: bool,
    /// The longest answer, in tokens; without it, the run's, or 128.
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Rows decoded at once; without it, the run's, or 32.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch_rows: Option<u16>,
}

pub(super) fn run(args: &Args, terminal: &Terminal) -> Result<ExitCode, Failure> {
    // Refused before the evaluation, not after it.
    let rows = args.rows.as_deref().map(NewFile::at).transpose()?;
    let opened = args.base.open(terminal)?;
    let mut run = opened.run;
    let sources = match args.files.is_empty() {
        true => run.data.eval_sources(),
        false => args.files.iter().cloned().map(|path| run.data.source(path.into())).collect(),
    };
    let held_out = held_out(&run).filter(|_| args.files.is_empty());
    if sources.is_empty() && held_out.is_none() {
        return Err(Failure::new(
            "nothing to evaluate on: no file was given, and the run has no data.eval",
            "name one or more files of rows: dayrun eval --run DIR test.jsonl",
        ));
    }
    run.eval.exact_match &= !args.no_exact_match;
    run.eval.max_new_tokens = args.max_new_tokens.unwrap_or(run.eval.max_new_tokens);
    run.eval.batch_rows = args.batch_rows.map_or(run.eval.batch_rows, usize::from);
    let report = |progress| terminal.report(progress);
    let note = |text: &str| terminal.note(text);
    let base = &opened.base;
    let vocab_size = Some(base.weights.config.vocab_size);
    let data_options = DataOptions { vocab_size, ..data_options(&run)? };
    let mut files = eval_files(base, &sources, &data_options, &report, &note)?;
    if held_out.is_some() {
        let options = DataOptions { held_out, ..data_options };
        let sources = run.data.train_sources();
        let load = || data::load(&sources, &base.tokenizer, &options, &report);
        files.push(held_out_file(base.cpu.install(load).map_err(Error::from)?.held_out));
    }
    let options = evaluate_options(&run);
    let result = evaluate(
        &opened.base,
        opened.adapter.as_ref(),
        &files,
        &options,
        &report,
        &AtomicBool::new(false),
    )?;
    terminal.clear();
    if let Some(file) = &rows {
        file.write(&rows_text(&result, &files))?;
    }
    print(&table(&result, &files))?;
    Ok(ExitCode::SUCCESS)
}

/// One line a file, and one for all of them together.
fn table(result: &Evaluation, files: &[EvalFile]) -> String {
    let line = |name: &str, part: &Evaluation| {
        let mut line = format!("{name}: {} rows", part.rows.len());
        if let Some(perplexity) = part.perplexity() {
            line.push_str(&format!(", perplexity {perplexity:.4}"));
        }
        if let Some(rate) = part.exact_match() {
            line.push_str(&format!(", exact match {:.2} %", 100.0 * rate));
        }
        line + "\n"
    };
    let mut text = String::new();
    for (i, file) in files.iter().enumerate() {
        text.push_str(&line(&file.path.display().to_string(), &result.of_file(i)));
    }
    if files.len() > 1 {
        text.push_str(&line("all", result));
    }
    text
}

fn rows_text(result: &Evaluation, files: &[EvalFile]) -> String {
    let mut text = String::new();
    for row in &result.rows {
        let file = files[row.file].path.display().to_string();
        let mut line = serde_json::Map::from_iter([("file".to_string(), file.into())]);
        if let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(row) {
            line.extend(fields);
        }
        text.push_str(&serde_json::Value::Object(line).to_string());
        text.push('\n');
    }
    text
}
