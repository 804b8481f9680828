//! Evaluation: perplexity over the loss tokens, and how many greedy answers are word for word
//! the expected ones.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use half::bf16;

use super::{Base, Evaluator};
use crate::adapter::Adapter;
use crate::config::ComputeDtype;
use crate::data::exact_match::exact_match;
use crate::data::{self, Document, EvalRow};
use crate::device::cpu::GemmElement;
use crate::model::EngineError;
use crate::model::generate::{GenerateError, Generator, Limits, Sampling};
use crate::model::tokenizer;
use crate::progress::{Progress, Report};

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluateOptions {
    pub compute_dtype: ComputeDtype,
    /// Tokens of a micro-batch of the loss pass.
    pub micro_batch_tokens: usize,
    /// Generate and compare answers.
    pub exact_match: bool,
    pub max_new_tokens: usize,
    /// Rows decoded at once.
    pub batch_rows: usize,
}

/// Evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvaluateError {
    #[error(transparent)]
    Pack(#[from] data::pack::TooLong),
    #[error("evaluating: {0}")]
    Engine(#[from] EngineError),
    #[error("evaluating: {0}")]
    Generate(#[from] GenerateError),
    #[error("evaluating: {0}")]
    Tokenizer(#[from] tokenizer::Error),
    #[error("stopped before the evaluation was done")]
    Stopped,
    #[error("evaluating {}:{line}: the loss is {loss}", path.display())]
    Loss { path: PathBuf, line: usize, loss: f64 },
}

impl EvaluateError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Pack(_) => {
                Some("raise train.micro_batch_tokens, or lower data.max_length".into())
            }
            Self::Generate(GenerateError::TooLong { .. }) => Some(
                "lower eval.max_new_tokens, shorten the rows, or turn eval.exact_match off".into(),
            ),
            Self::Tokenizer(e) => e.hint(),
            Self::Engine(e) | Self::Generate(GenerateError::Engine(e)) => e.hint(),
            Self::Loss { .. } => {
                Some("the model or the adapter is damaged, or compute_dtype is too narrow".into())
            }
            _ => None,
        }
    }
}

/// The rows of one file.
#[derive(Clone, Debug)]
pub struct EvalFile {
    pub path: PathBuf,
    pub rows: Vec<EvalRow>,
}

/// One row's result.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct RowResult {
    /// Which of the files.
    #[serde(skip)]
    pub file: usize,
    /// The line in it.
    pub line: usize,
    /// Mean over its loss tokens, nats.
    pub loss: f64,
    pub loss_tokens: usize,
    pub expected: String,
    /// `None` when no answers were generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match: Option<bool>,
}

/// Every row's result, in the order of the files.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    pub rows: Vec<RowResult>,
    pub seconds: f64,
}

impl Evaluation {
    /// exp of the mean loss over all loss tokens.
    pub fn perplexity(&self) -> Option<f64> {
        let tokens: usize = self.rows.iter().map(|r| r.loss_tokens).sum();
        let total: f64 = self.rows.iter().map(|r| r.loss * r.loss_tokens as f64).sum();
        (tokens > 0).then(|| (total / tokens as f64).exp())
    }

    /// The share of rows answered exactly; `None` when no answers were generated.
    pub fn exact_match(&self) -> Option<f64> {
        let judged: Vec<bool> = self.rows.iter().filter_map(|r| r.exact_match).collect();
        let right = judged.iter().filter(|right| **right).count();
        (!judged.is_empty()).then(|| right as f64 / judged.len() as f64)
    }

    /// The rows of one file alone.
    pub fn of_file(&self, file: usize) -> Evaluation {
        let rows = self.rows.iter().filter(|r| r.file == file).cloned().collect();
        Evaluation { rows, seconds: self.seconds }
    }
}

/// Evaluates a base with an adapter, or alone, on the rows of some files. `stop` is looked at
/// before every batch and every token: once set, the end is [`EvaluateError::Stopped`].
pub fn evaluate(
    base: &Base,
    adapter: Option<&Adapter>,
    files: &[EvalFile],
    options: &EvaluateOptions,
    report: Report,
    stop: &AtomicBool,
) -> Result<Evaluation, EvaluateError> {
    match options.compute_dtype {
        ComputeDtype::Bf16 => evaluate_as::<bf16>(base, adapter, files, options, report, stop),
        ComputeDtype::F32 => evaluate_as::<f32>(base, adapter, files, options, report, stop),
    }
}

fn evaluate_as<E: GemmElement>(
    base: &Base,
    adapter: Option<&Adapter>,
    files: &[EvalFile],
    options: &EvaluateOptions,
    report: Report,
    stop: &AtomicBool,
) -> Result<Evaluation, EvaluateError> {
    let start = Instant::now();
    let all: Vec<(usize, &EvalRow)> = files
        .iter()
        .enumerate()
        .flat_map(|(file, of)| of.rows.iter().map(move |row| (file, row)))
        .collect();
    let documents: Vec<Document> = all.iter().map(|(_, row)| row.document.clone()).collect();
    let losses = losses::<E>(base, adapter, &documents, options.micro_batch_tokens, report, stop)?;
    // A row of plain text asks for nothing.
    let asks: Vec<usize> = (0..all.len()).filter(|&i| !all[i].1.prompt.is_empty()).collect();
    let mut answers = vec![None; all.len()];
    if options.exact_match && !asks.is_empty() {
        let rows: Vec<&EvalRow> = asks.iter().map(|&i| all[i].1).collect();
        let given = answers_to::<E>(base, adapter, &rows, options, report, stop)?;
        for (i, answer) in asks.into_iter().zip(given) {
            answers[i] = Some(answer);
        }
    }
    let mut rows = Vec::with_capacity(all.len());
    for (i, &(file, row)) in all.iter().enumerate() {
        let (loss, loss_tokens) = (losses[i], row.document.loss_tokens());
        if !loss.is_finite() {
            let path = files[file].path.clone();
            return Err(EvaluateError::Loss { path, line: row.line, loss });
        }
        let answer = answers[i].take();
        rows.push(RowResult {
            file,
            line: row.line,
            loss: loss / loss_tokens.max(1) as f64,
            loss_tokens,
            expected: row.answer.clone(),
            exact_match: answer.as_ref().map(|answer| exact_match(answer, &row.answer)),
            answer,
        });
    }
    Ok(Evaluation { rows, seconds: start.elapsed().as_secs_f64() })
}

/// The summed loss of each document, nats.
fn losses<E: GemmElement>(
    base: &Base,
    adapter: Option<&Adapter>,
    documents: &[Document],
    tokens: usize,
    report: Report,
    stop: &AtomicBool,
) -> Result<Vec<f64>, EvaluateError> {
    let batches = data::pack::sequential_batches(documents, tokens)?;
    let most = batches.iter().map(|b| b.batch.tokens.len()).max().unwrap_or(0);
    let mut sums = vec![0.0; documents.len()];
    if most == 0 {
        return Ok(sums);
    }
    let mut evaluator = Evaluator::<E>::new(&base.model(), adapter, most)?;
    let total = batches.len() as u64;
    for (i, batch) in batches.iter().enumerate() {
        report(Progress { stage: "measuring the loss", done: i as u64, total, unit: "batches" });
        if stop.load(Ordering::Relaxed) {
            return Err(EvaluateError::Stopped);
        }
        let losses = evaluator.losses(&batch.batch)?;
        for (&document, &loss) in batch.document_of.iter().zip(losses) {
            sums[document as usize] += f64::from(loss);
        }
    }
    report(Progress { stage: "measuring the loss", done: total, total, unit: "batches" });
    Ok(sums)
}

/// The greedy answer of each row, as text.
fn answers_to<E: GemmElement>(
    base: &Base,
    adapter: Option<&Adapter>,
    rows: &[&EvalRow],
    options: &EvaluateOptions,
    report: Report,
    stop: &AtomicBool,
) -> Result<Vec<String>, EvaluateError> {
    // Long prompts first, so that none of them is left to decode alone at the end.
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(rows[i].prompt.len()));
    let prompts: Vec<Vec<u32>> = order.iter().map(|&i| rows[i].prompt.clone()).collect();
    let longest = prompts.first().map_or(0, Vec::len);
    let capacity =
        (longest + options.max_new_tokens).min(base.weights.config.max_position_embeddings);
    let at_once = options.batch_rows.min(rows.len()).max(1);
    let mut generator = Generator::<E>::new(&base.model(), adapter, at_once, capacity)?;
    let limits = Limits {
        max_new_tokens: options.max_new_tokens,
        stop_ids: base.tokenizer.stop_ids(),
        stop: Some(stop),
    };
    let (total, mut seen) = (rows.len() as u64, 0);
    let mut on_token = |prompt: usize, _: u32| {
        if prompt as u64 >= seen {
            seen = prompt as u64 + 1;
            let done = seen.saturating_sub(at_once as u64);
            report(Progress { stage: "answering", done, total, unit: "rows" });
        }
    };
    let generated = generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut on_token);
    let generated = match generated {
        Err(GenerateError::Stopped) => return Err(EvaluateError::Stopped),
        other => other?,
    };
    report(Progress { stage: "answering", done: total, total, unit: "rows" });
    let mut answers = vec![String::new(); rows.len()];
    for (&i, ids) in order.iter().zip(&generated) {
        answers[i] = base.tokenizer.decode(ids)?;
    }
    Ok(answers)
}
