//! Data on a page.

use serde_json::{Value, json};

use super::Report;
use super::page::{Page, of, share, thousands};
use crate::cli::Terminal;
use crate::cli::output::Failure;
use crate::config::RunFile;
use crate::data::pack::Epoch;
use crate::data::preview::{self, Segment};
use crate::data::{self, Dataset, Source, Statistics};
use crate::model::tokenizer::TextTokenizer;
use crate::train::run::{data_options, held_out};

/// The training data of `run`; with the run's model as it would be trained on, without it by their kinds.
pub(super) fn report(
    run: &RunFile,
    with_model: bool,
    rows: usize,
    terminal: &Terminal,
) -> Result<Report, Failure> {
    let sources = run.data.train_sources();
    if !with_model {
        return without_model(&sources);
    }
    let tokenizer = TextTokenizer::load(&super::local(&run.model.path, terminal)?)?;
    of_model(run, &tokenizer, rows, terminal)
}

/// As [`report`], with a tokenizer that is loaded.
pub(super) fn of_model(
    run: &RunFile,
    tokenizer: &TextTokenizer,
    rows: usize,
    terminal: &Terminal,
) -> Result<Report, Failure> {
    let mut options = data_options(run)?;
    options.held_out = held_out(run);
    let report = |progress| terminal.report(progress);
    let dataset = data::load(&run.data.train_sources(), tokenizer, &options, &report)?;
    let capacity = run.train.micro_batch_tokens;
    let epoch = Epoch::new(&dataset, capacity, run.train.seed, 0)?;
    let stats = &dataset.stats;
    let shown = shown(&dataset, tokenizer, rows)?;

    let mut page = Page::new();
    page.title(&title(&run.data.train_sources()));
    counts(&mut page, stats);
    if stats.held_out > 0 {
        page.line("held out", of(stats.held_out, "row"));
    }
    let cut = match (stats.truncated, stats.split) {
        (0, 0) => "none".to_string(),
        (cut, 0) => format!("{} cut to {} tokens", of(cut, "row"), options.max_length),
        (_, split) => format!("{} cut into several documents", of(split, "row")),
    };
    page.line("too long", cut);
    let notes = notes(stats);
    if !notes.is_empty() {
        page.line("beware", notes.join("\n"));
    }
    page.line("documents", documents(stats));
    let packing = packing(&epoch, run);
    page.line("packed", packing.0);
    lengths(&mut page, stats, options.max_length);
    for (i, segments) in shown.iter().enumerate() {
        page.blank();
        page.title(&format!("document {}", i + 1));
        page.mask(segments.iter().map(|segment| (segment.text.as_str(), segment.loss)));
    }
    let mut json = json_of(stats);
    json["packing"] = packing.1;
    json["documents_shown"] = json!(shown);
    Ok(Report { page, json: json!({"data": json}), usable: stats.skipped == 0 })
}

fn title(sources: &[Source]) -> String {
    let paths: Vec<String> =
        sources.iter().map(|source| source.path.display().to_string()).collect();
    format!("data {}", paths.join(", "))
}

fn without_model(sources: &[Source]) -> Result<Report, Failure> {
    let stats = preview::survey(sources)?;
    let mut page = Page::new();
    page.title(&title(sources));
    counts(&mut page, &stats);
    page.blank();
    page.plain("  lengths, the loss and the packing are a model's: add --model PATH");
    let usable = stats.skipped == 0 && stats.rows > 0;
    Ok(Report { page, json: json!({"data": json_of(&stats)}), usable })
}

/// Rows, their kinds, and what is wrong with the bad ones.
fn counts(page: &mut Page, stats: &Statistics) {
    let kinds: Vec<String> = stats
        .kinds
        .iter()
        .map(|(kind, rows)| format!("{} {}", thousands(*rows), kind.name()))
        .collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    page.line("rows", format!("{}{kinds}", thousands(stats.rows)));
    for (i, (reason, rows)) in stats.reasons.iter().enumerate() {
        let name = if i == 0 { "bad rows" } else { "" };
        page.line(name, format!("{} {reason}, the first: {}", thousands(rows.rows), rows.first));
    }
}

fn notes(stats: &Statistics) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |count: usize, what: &str, why: &str| {
        if count > 0 {
            notes.push(format!("{} {why}", of(count, what)));
        }
    };
    note(
        stats.turns_without_stop,
        "assistant turn",
        "without a stop token at the end: the model will not learn to stop there",
    );
    note(stats.straddled, "row", "with a token on both sides of the prompt's end");
    note(stats.pieces_without_loss, "piece", "of rows cut apart without loss, left out");
    notes
}

fn documents(stats: &Statistics) -> String {
    format!(
        "{} of {} tokens, {} with loss",
        thousands(stats.documents),
        thousands(stats.tokens),
        share(stats.loss_tokens, stats.tokens)
    )
}

/// How an epoch packs: a line, and the same as JSON.
fn packing(epoch: &Epoch, run: &RunFile) -> (String, Value) {
    let capacity = run.train.micro_batch_tokens;
    let updates = epoch.len().div_ceil(run.train.gradient_accumulation);
    let batches = match epoch.len() {
        1 => "1 micro-batch".into(),
        many => format!("{} micro-batches", thousands(many)),
    };
    let text = format!(
        "{batches} of {} tokens, {:.1} % full; {} an epoch",
        thousands(capacity),
        100.0 * epoch.utilisation(),
        of(updates, "update"),
    );
    let json = json!({
        "micro_batch_tokens": capacity,
        "micro_batches": epoch.len(),
        "utilisation": epoch.utilisation(),
        "updates": updates,
    });
    (text, json)
}

fn lengths(page: &mut Page, stats: &Statistics, most: usize) {
    let quantile = |share: f64| stats.lengths.quantile(share).map_or("none".into(), thousands);
    page.blank();
    page.line(
        "lengths in tokens",
        format!(
            "half up to {}, 95 % up to {}, the longest {}; {} above {}",
            quantile(0.5),
            quantile(0.95),
            quantile(1.0),
            thousands(stats.lengths.above(most)),
            thousands(most)
        ),
    );
    let buckets = stats.lengths.buckets();
    let bar = |(end, count): &(usize, usize)| (format!("{:>9}", thousands(*end)), *count);
    page.bars(&buckets.iter().map(bar).collect::<Vec<_>>());
}

/// The first documents, cut where the loss begins and ends.
fn shown(
    dataset: &Dataset,
    tokenizer: &TextTokenizer,
    rows: usize,
) -> Result<Vec<Vec<Segment>>, Failure> {
    let count = rows.min(dataset.documents.len());
    (0..count).map(|i| Ok(preview::segments(&dataset.documents.get(i)?, tokenizer)?)).collect()
}

fn json_of(stats: &Statistics) -> Value {
    let kinds = stats.kinds.iter().map(|(kind, rows)| (kind.name().to_string(), json!(rows)));
    let reasons = stats
        .reasons
        .iter()
        .map(|(reason, of)| (reason.to_string(), json!({"rows": of.rows, "first": of.first})));
    let buckets = stats.lengths.buckets();
    let buckets: Vec<Value> =
        buckets.iter().map(|(end, rows)| json!({"up_to": end, "rows": rows})).collect();
    json!({
        "rows": stats.rows,
        "kinds": kinds.collect::<serde_json::Map<_, _>>(),
        "bad_rows": stats.skipped,
        "reasons": reasons.collect::<serde_json::Map<_, _>>(),
        "held_out": stats.held_out,
        "truncated": stats.truncated,
        "split": stats.split,
        "pieces_without_loss": stats.pieces_without_loss,
        "turns_without_stop": stats.turns_without_stop,
        "straddled": stats.straddled,
        "documents": stats.documents,
        "tokens": stats.tokens,
        "loss_tokens": stats.loss_tokens,
        "longest": stats.lengths.quantile(1.0),
        "median": stats.lengths.quantile(0.5),
        "lengths": buckets,
    })
}
