//! From files to a data set in memory: streaming, in parallel, in the files' order.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::encode::{EncodeError, EncodedRecord, Encoder, PromptAs};
use super::error::{Error, RowProblem};
use super::records::{self, Kind, Line, Record};
use super::template::ChatTemplate;
use crate::model::tokenizer::TextTokenizer;
use crate::progress::{Progress, Report};

/// Rows parsed and tokenised at a time.
const CHUNK: usize = 4096;

/// One document's tokens, and for each whether the loss counts it (as a target: the first never is).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub tokens: Vec<u32>,
    pub loss_mask: Vec<bool>,
}

impl Document {
    /// The number of targets.
    pub fn loss_tokens(&self) -> usize {
        self.loss_mask.iter().skip(1).filter(|&&loss| loss).count()
    }
}

/// What happens to a bad row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// The run stops and names it.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// What happens to a document longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TooLong {
    /// Its first `max_length` tokens are kept.
    #[default]
    Truncate,
    /// It becomes several documents, none of which sees the one before.
    Split,
}

/// How rows become documents.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Tokens in a document, at most; at most a micro-batch's capacity.
    pub max_length: usize,
    pub too_long: TooLong,
    pub on_bad_row: OnBadRow,
    pub prompt_as: PromptAs,
    /// A chat template that takes the place of the model's own.
    pub chat_template: Option<String>,
    /// What `strftime_now` says in a template; `None`: today.
    pub date: Option<jiff::civil::Date>,
}

impl DataOptions {
    /// The defaults, for documents of up to `max_length` tokens.
    pub fn new(max_length: usize) -> Self {
        Self {
            max_length,
            too_long: TooLong::default(),
            on_bad_row: OnBadRow::default(),
            prompt_as: PromptAs::default(),
            chat_template: None,
            date: None,
        }
    }

    /// The chat template in force: the option's, else the model's, else none.
    ///
    /// Errors: [`Error::Template`] if it cannot be read.
    pub fn template(&self, tokenizer: &TextTokenizer) -> Result<Option<ChatTemplate>, Error> {
        let source = self.chat_template.as_deref().or(tokenizer.chat_template());
        let compile = |source| ChatTemplate::new(source, tokenizer.special_tokens(), self.date);
        source
            .map(compile)
            .transpose()
            .map_err(|e| Error::Template { path: tokenizer.path().into(), problem: e.to_string() })
    }
}

/// What was seen while loading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataStats {
    /// Rows that were not blank.
    pub rows: usize,
    /// Bad rows left out, and the first of them.
    pub skipped: usize,
    pub first_skipped: Option<String>,
    /// Rows cut to `max_length`.
    pub truncated: usize,
    /// Rows cut into several documents.
    pub split: usize,
    /// Pieces of those without a loss token, left out.
    pub pieces_without_loss: usize,
    /// Assistant turns that end without one of the model's stop tokens: it will not learn to stop.
    pub turns_without_stop: usize,
    /// Plain rows where a token lies on both sides of the border between prompt and completion.
    pub straddled: usize,
    pub documents: usize,
    pub tokens: usize,
    pub loss_tokens: usize,
    /// The longest document's tokens.
    pub longest: usize,
}

/// Documents in the order of the files, and what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dataset {
    pub documents: Vec<Document>,
    pub stats: DataStats,
}

/// A row to evaluate: its document (for the loss), what to generate from, and the answer expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalRow {
    /// The line in its file.
    pub line: usize,
    pub document: Document,
    pub prompt: Vec<u32>,
    pub answer: String,
}

/// Loads training data. Rows are parsed and tokenised in parallel; the result depends on the files
/// and the options alone.
///
/// Errors: [`Error`]; every one names file and line where there is one. With `on_bad_row = Skip`, bad
/// rows are counted instead.
pub fn load(
    paths: &[PathBuf],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
) -> Result<Dataset, Error> {
    let mut dataset = Dataset::default();
    let keep = |_: &Encoder, _: &Record, encoded: EncodedRecord| Ok(encoded);
    dataset.stats = read(paths, tokenizer, options, report, keep, |stats, _, encoded| {
        for document in fit(encoded.document, options, stats) {
            stats.tokens += document.tokens.len();
            stats.loss_tokens += document.loss_tokens();
            stats.longest = stats.longest.max(document.tokens.len());
            stats.documents += 1;
            dataset.documents.push(document);
        }
    })?;
    Ok(dataset)
}

/// Loads evaluation data: one row each, the loss over at most `max_length` tokens (longer rows are
/// truncated whatever `too_long` says, so that a row stays a row).
///
/// Errors: as [`load`].
pub fn load_eval(
    paths: &[PathBuf],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
) -> Result<(Vec<EvalRow>, DataStats), Error> {
    let options = DataOptions { too_long: TooLong::Truncate, ..options.clone() };
    let mut rows = Vec::new();
    let with_prompt = |encoder: &Encoder, record: &Record, encoded: EncodedRecord| {
        let (prompt, answer) = encoder.prompt(record)?;
        Ok((encoded, prompt, answer))
    };
    let stats = read(paths, tokenizer, &options, report, with_prompt, |stats, line, item| {
        let (encoded, prompt, answer) = item;
        for document in fit(encoded.document, &options, stats) {
            stats.tokens += document.tokens.len();
            stats.loss_tokens += document.loss_tokens();
            stats.longest = stats.longest.max(document.tokens.len());
            stats.documents += 1;
            rows.push(EvalRow { line, document, prompt: prompt.clone(), answer: answer.clone() });
        }
    })?;
    Ok((rows, stats))
}

/// What `read` needs to know of a row's result.
trait Encoded: Send {
    fn record(&self) -> &EncodedRecord;
}

impl Encoded for EncodedRecord {
    fn record(&self) -> &EncodedRecord {
        self
    }
}

impl Encoded for (EncodedRecord, Vec<u32>, String) {
    fn record(&self) -> &EncodedRecord {
        &self.0
    }
}

/// Reads all rows of all files: `encode` in parallel, `take` in order.
fn read<T: Encoded>(
    paths: &[PathBuf],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
    encode: impl Fn(&Encoder, &Record, EncodedRecord) -> Result<T, EncodeError> + Sync,
    mut take: impl FnMut(&mut DataStats, usize, T),
) -> Result<DataStats, Error> {
    if options.max_length < 2 {
        return Err(Error::MaxLength(options.max_length));
    }
    if paths.is_empty() {
        return Err(Error::NoFiles);
    }
    let template = options.template(tokenizer)?;
    let encoder = Encoder { tokenizer, template: template.as_ref(), prompt_as: options.prompt_as };
    let mut stats = DataStats::default();
    let io = |path: &Path, source| Error::Io { path: path.into(), source };

    let mut files = Vec::new();
    let mut total = 0;
    for path in paths {
        let file = File::open(path).map_err(|e| io(path, e))?;
        total += file.metadata().map_err(|e| io(path, e))?.len();
        files.push((path, file));
    }
    let mut done = 0;
    for (path, file) in files {
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let (mut number, mut kind) = (0, None);
        loop {
            let lines = records::read_lines(&mut reader, &mut number, CHUNK);
            let lines = lines.map_err(|e| io(path, e))?;
            if lines.is_empty() {
                break;
            }
            stats.rows += lines.len();
            kind = kind.or_else(|| lines.iter().find_map(|l| records::parse(&l.1, None).ok()));
            let file_kind: Option<Kind> = kind.as_ref().map(|k: &(Kind, Record)| k.0);
            let one = |line: &Line| row(&encoder, options, file_kind, &line.1, &encode);
            let results: Vec<_> = lines.par_iter().map(one).collect();
            for ((line, _), result) in lines.into_iter().zip(results) {
                match result {
                    Ok(item) => {
                        stats.turns_without_stop += item.record().turns_without_stop;
                        stats.straddled += usize::from(item.record().straddled);
                        take(&mut stats, line, item);
                    }
                    Err(error) => bad_row(error, path, line, tokenizer, options, &mut stats)?,
                }
            }
            let at = reader.stream_position().map_err(|e| io(path, e))?;
            report(Progress { stage: "tokenising", done: done + at, total, unit: "bytes" });
        }
        done += reader.stream_position().map_err(|e| io(path, e))?;
    }
    if stats.rows == stats.skipped {
        return Err(Error::Empty { paths: paths.to_vec(), skipped: stats.skipped });
    }
    Ok(stats)
}

/// One row: parsed, encoded, and seen to have a loss token among those that are kept.
fn row<T: Encoded>(
    encoder: &Encoder,
    options: &DataOptions,
    kind: Option<Kind>,
    line: &[u8],
    encode: impl Fn(&Encoder, &Record, EncodedRecord) -> Result<T, EncodeError>,
) -> Result<T, EncodeError> {
    let (_, record) = records::parse(line, kind)?;
    let encoded = encoder.encode(&record)?;
    let document = &encoded.document;
    if document.loss_tokens() == 0 {
        let chat = matches!(record, Record::Chat { .. });
        let why = if chat { "no assistant turn is to be learned" } else { "it is too short" };
        return Err(RowProblem::NoLoss(why).into());
    }
    let kept = document.loss_mask.iter().take(options.max_length).skip(1).any(|&loss| loss);
    if options.too_long == TooLong::Truncate && !kept {
        return Err(RowProblem::NoLoss("its loss tokens lie behind `max_length`").into());
    }
    encode(encoder, &record, encoded)
}

/// Stops, or counts the row.
fn bad_row(
    error: EncodeError,
    path: &Path,
    line: usize,
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    stats: &mut DataStats,
) -> Result<(), Error> {
    let model = || tokenizer.path().to_path_buf();
    let problem = match error {
        EncodeError::Row(problem) => problem,
        // What no row can escape is not a row's fault.
        EncodeError::NoTemplate => return Err(Error::NoTemplate { path: model() }),
        EncodeError::NoEos => return Err(Error::NoEos { path: model() }),
        EncodeError::Tokenizer(source) => {
            return Err(Error::Tokenizer { path: path.into(), line, source });
        }
    };
    if options.on_bad_row == OnBadRow::Error {
        return Err(Error::Row { path: path.into(), line, problem });
    }
    stats.skipped += 1;
    let text = || format!("{}:{line}: {problem}", path.display());
    stats.first_skipped.get_or_insert_with(text);
    Ok(())
}

/// The documents that a row gives: one, cut if it is too long, or its pieces.
fn fit(document: Document, options: &DataOptions, stats: &mut DataStats) -> Vec<Document> {
    if document.tokens.len() <= options.max_length {
        return vec![document];
    }
    let Document { mut tokens, mut loss_mask } = document;
    match options.too_long {
        TooLong::Truncate => {
            stats.truncated += 1;
            tokens.truncate(options.max_length);
            loss_mask.truncate(options.max_length);
            vec![Document { tokens, loss_mask }]
        }
        TooLong::Split => {
            stats.split += 1;
            let pieces =
                tokens.chunks(options.max_length).zip(loss_mask.chunks(options.max_length));
            let pieces = pieces.map(|(t, m)| Document { tokens: t.into(), loss_mask: m.into() });
            let (kept, dropped): (Vec<_>, Vec<_>) =
                pieces.partition(|piece| piece.loss_tokens() > 0);
            stats.pieces_without_loss += dropped.len();
            kept
        }
    }
}
