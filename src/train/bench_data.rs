//! Reading data, measured: rows a second from the files to packed micro-batches, and the memory it takes.

use std::time::Instant;

use serde::Serialize;

use super::run_dir::peak_rss_bytes;
use crate::Error;
use crate::data::pack::Epoch;
use crate::data::{self, DataOptions, Source};
use crate::model::batch::MicroBatch;
use crate::model::tokenizer::TextTokenizer;
use crate::progress::{Progress, Report};

/// What a benchmark of data found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DataBench {
    /// From the first byte to the last packed micro-batch.
    pub rows_per_second: f64,
    pub tokens_per_second: f64,
    pub rows: usize,
    pub documents: usize,
    pub tokens: usize,
    pub loss_tokens: usize,
    pub micro_batches: usize,
    /// The share of the micro-batches' room that real tokens fill.
    pub utilisation: f64,
    /// Reading, parsing, tokenising.
    pub reading_seconds: f64,
    /// Packing one epoch, and assembling each micro-batch once.
    pub packing_seconds: f64,
    /// The most memory that the process has had, in 10⁶ bytes; `None` where the system does not tell.
    pub rss_mb: Option<f64>,
    /// Whether the tokens were kept in a file.
    pub on_disk: bool,
    pub threads: usize,
    pub dayrun_version: &'static str,
}

/// Reads, tokenises and packs one epoch of `sources`, as a run does. On the threads of the rayon pool
/// that it is called in.
pub fn data(
    sources: &[Source],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    micro_batch_tokens: usize,
    report: Report,
) -> Result<DataBench, Error> {
    let start = Instant::now();
    let dataset = data::load(sources, tokenizer, options, report)?;
    let reading_seconds = start.elapsed().as_secs_f64();
    let epoch = Epoch::new(&dataset, micro_batch_tokens, 0, 0)?;
    let mut batch = MicroBatch::default();
    let total = epoch.len() as u64;
    for i in 0..epoch.len() {
        epoch.fill(i, &dataset.documents, &mut batch)?;
        report(Progress { stage: "packing", done: i as u64 + 1, total, unit: "batches" });
    }
    let seconds = start.elapsed().as_secs_f64();
    let stats = &dataset.stats;
    Ok(DataBench {
        rows_per_second: stats.rows as f64 / seconds,
        tokens_per_second: stats.tokens as f64 / seconds,
        rows: stats.rows,
        documents: stats.documents,
        tokens: stats.tokens,
        loss_tokens: stats.loss_tokens,
        micro_batches: epoch.len(),
        utilisation: epoch.utilisation(),
        reading_seconds,
        packing_seconds: seconds - reading_seconds,
        rss_mb: peak_rss_bytes().map(|bytes| bytes as f64 / 1e6),
        on_disk: dataset.documents.on_disk(),
        threads: rayon::current_num_threads(),
        dayrun_version: env!("CARGO_PKG_VERSION"),
    })
}
