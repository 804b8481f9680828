//! From files to tokens: streaming, in parallel, in the files' order.
//!
//! A few thousand rows at a time are parsed and tokenised by all threads while the next ones are read.
//! What stays is their tokens ([`TokenStore`]), never their text, so memory does not grow with the data.

use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::encode::{EncodeError, EncodedRecord, Encoder};
use super::error::{Error, Place, RowProblem};
use super::files;
use super::mix::{self, Source};
use super::options::{DataOptions, OnBadRow, TooLong};
use super::records::{self, Kind, Record};
use super::rows::{RawRow, Reader};
use super::statistics::Statistics;
use super::store::TokenStore;
use crate::model::tokenizer::TextTokenizer;
use crate::progress::{Progress, Report};

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

/// Documents in the order of the files, and what was seen.
#[derive(Debug, Default)]
pub struct Dataset {
    pub documents: TokenStore,
    /// What the documents come from, in their order.
    pub sets: Vec<Set>,
    /// The rows that were held out of training.
    pub held_out: Vec<EvalRow>,
    /// What was seen of all sets.
    pub stats: Statistics,
}

/// One of several data sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Set {
    pub source: Source,
    /// The files that its path stands for.
    pub files: Vec<PathBuf>,
    /// Its documents among all.
    pub documents: Range<u32>,
    pub stats: Statistics,
}

impl Dataset {
    /// These documents, in memory.
    pub fn of(documents: &[Document]) -> Self {
        Self { documents: TokenStore::of(documents), ..Self::default() }
    }

    /// The documents of an epoch, before they are shuffled: each as often as its set's weight says.
    pub fn epoch_documents(&self, seed: u64, epoch: u64) -> Vec<u32> {
        if self.sets.is_empty() {
            return (0..self.documents.len() as u32).collect();
        }
        let weighted = |set: &Set| (set.documents.clone(), set.source.weight);
        let sets: Vec<_> = self.sets.iter().map(weighted).collect();
        mix::epoch_documents(&sets, seed, epoch)
    }
}

/// A row to evaluate: its document (for the loss), what to generate from, and the answer expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalRow {
    /// The line in its file.
    pub line: usize,
    pub document: Document,
    /// Empty where there is nothing to answer.
    pub prompt: Vec<u32>,
    pub answer: String,
}

/// Loads training data from files and directories. Rows are parsed and tokenised in parallel; the
/// result depends on the files and the options alone.
///
/// Errors: [`Error`]; every one names file and line where there is one. With `on_bad_row = Skip`, bad
/// rows are counted instead.
pub fn load<S: Clone + Into<Source>>(
    sources: &[S],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
) -> Result<Dataset, Error> {
    let mut documents = TokenStore::new(options.memory_tokens, &options.cache_dir);
    let mut held_out = Vec::new();
    let holds = |set, row| options.held_out.is_some_and(|held| held.holds(set, row));
    let mut sets = read(sources, tokenizer, options, report, holds, |stats, place, item| {
        if let Some((prompt, answer)) = item.question {
            stats.held_out += 1;
            held_out.push(eval_row(item.encoded, place, prompt, answer, options));
            return Ok(());
        }
        for document in fit(item.encoded.document, options, stats) {
            stats.document(&document);
            documents.push(&document)?;
        }
        Ok(())
    })?;
    documents.flush()?;
    let (mut start, mut stats) = (0, Statistics::default());
    for set in &mut sets {
        set.documents = start..start + set.stats.documents as u32;
        start = set.documents.end;
        stats.add(&set.stats);
    }
    if let Some(held) = options.held_out {
        let left = match (documents.is_empty(), held_out.is_empty()) {
            (true, _) => Some("nothing to learn from"),
            (_, true) => Some("nothing to evaluate on"),
            _ => None,
        };
        if let Some(what) = left {
            return Err(Error::HeldOut { share: held.share, rows: stats.rows, what });
        }
    }
    Ok(Dataset { documents, sets, held_out, stats })
}

/// Loads evaluation data: one row each, the loss over at most `max_length` tokens (longer rows are
/// truncated whatever `too_long` says, so that a row stays a row).
///
/// Errors: as [`load`].
pub fn load_eval<S: Clone + Into<Source>>(
    sources: &[S],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
) -> Result<(Vec<EvalRow>, Statistics), Error> {
    let mut rows = Vec::new();
    let all = |_, _| true;
    let sets = read(sources, tokenizer, options, report, all, |stats, place, item| {
        let (prompt, answer) = item.question.unwrap_or_default();
        stats.truncated += usize::from(item.encoded.document.tokens.len() > options.max_length);
        let row = eval_row(item.encoded, place, prompt, answer, options);
        stats.document(&row.document);
        rows.push(row);
        Ok(())
    })?;
    let mut stats = Statistics::default();
    sets.iter().for_each(|set| stats.add(&set.stats));
    Ok((rows, stats))
}

fn eval_row(
    encoded: EncodedRecord,
    place: Place,
    prompt: Vec<u32>,
    answer: String,
    options: &DataOptions,
) -> EvalRow {
    let mut document = encoded.document;
    document.tokens.truncate(options.max_length);
    document.loss_mask.truncate(options.max_length);
    EvalRow { line: place.number(), document, prompt, answer }
}

/// The first row that can be read of what `source` stands for; to see what kind of data it is.
pub fn first_record(source: &Source) -> Option<Record> {
    let path = files::expand(&source.path).ok()?.into_iter().next()?;
    let rows = Reader::open(&path, &source.columns).ok()?.chunk().ok()?;
    let read = |row: &RawRow| records::from_object(row.object().ok()?, None, &source.columns).ok();
    rows.iter().find_map(|(_, row)| read(row)).map(|(_, record)| record)
}

/// A row's tokens; of one to evaluate also what to generate from, and the answer.
struct Item {
    kind: Kind,
    encoded: EncodedRecord,
    question: Option<(Vec<u32>, String)>,
}

/// What all rows are read with.
struct Reading<'a> {
    encoder: Encoder<'a>,
    options: &'a DataOptions,
    /// Ready-made ids are below it.
    vocab: usize,
    /// Whether a row of a set, by its number in it, is one to evaluate.
    evaluates: &'a (dyn Fn(usize, usize) -> bool + Sync),
}

/// Reads all rows of all files: encoded in parallel, taken in order.
fn read<S: Clone + Into<Source>>(
    sources: &[S],
    tokenizer: &TextTokenizer,
    options: &DataOptions,
    report: Report,
    evaluates: impl Fn(usize, usize) -> bool + Sync,
    mut take: impl FnMut(&mut Statistics, Place, Item) -> Result<(), Error>,
) -> Result<Vec<Set>, Error> {
    if options.max_length < 2 {
        return Err(Error::MaxLength(options.max_length));
    }
    let template = options.template(tokenizer)?;
    let encoder = Encoder { tokenizer, template: template.as_ref(), prompt_as: options.prompt_as };
    let vocab = options.vocab_size.unwrap_or_else(|| tokenizer.vocab_size());
    let reading = Reading { encoder, options, vocab, evaluates: &evaluates };
    let mut sets = Vec::new();
    let mut total = 0;
    for source in sources {
        let source: Source = source.clone().into();
        let files = files::expand(&source.path)?;
        for path in &files {
            // Refused now, not after the files before it have been read.
            files::format(path)?;
            let length = std::fs::metadata(path).map(|metadata| metadata.len());
            total += length.map_err(|source| Error::Io { path: path.clone(), source })?;
        }
        sets.push(Set { source, files, documents: 0..0, stats: Statistics::default() });
    }
    if sets.is_empty() {
        return Err(Error::NoFiles);
    }
    let mut done = 0;
    for (index, set) in sets.iter_mut().enumerate() {
        for path in &set.files {
            let mut reader = Reader::open(path, &set.source.columns)?;
            let watch = |reader: &Reader| {
                let done = done + reader.position();
                report(Progress { stage: "tokenising", done, total, unit: "bytes" });
            };
            let file = OpenFile { path, source: &set.source, set: index };
            reading.file(&file, &mut reader, watch, &mut set.stats, &mut take)?;
            done += reader.position();
        }
    }
    if sets.iter().all(|set| set.stats.rows == set.stats.skipped) {
        let skipped = sets.iter().map(|set| set.stats.skipped).sum();
        let paths = sets.into_iter().map(|set| set.source.path).collect();
        return Err(Error::Empty { paths, skipped });
    }
    Ok(sets)
}

/// The file that is being read.
struct OpenFile<'a> {
    path: &'a Path,
    source: &'a Source,
    /// The number of its data set.
    set: usize,
}

impl Reading<'_> {
    /// All rows of a file.
    fn file(
        &self,
        file: &OpenFile,
        reader: &mut Reader,
        watch: impl Fn(&Reader),
        stats: &mut Statistics,
        take: &mut impl FnMut(&mut Statistics, Place, Item) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut kind = None;
        let mut rows = reader.chunk()?;
        while !rows.is_empty() {
            let record = |row: &RawRow| {
                records::from_object(row.object().ok()?, None, &file.source.columns).ok()
            };
            kind =
                kind.or_else(|| rows.iter().find_map(|(_, row)| record(row)).map(|(kind, _)| kind));
            let first = stats.rows;
            let one = |(i, (_, row)): (usize, &(Place, RawRow))| {
                self.row(file.source, row, kind, (self.evaluates)(file.set, first + i))
            };
            let encode = || rows.par_iter().enumerate().map(one).collect::<Vec<_>>();
            let (results, next) = rayon::join(encode, || reader.chunk());
            stats.rows += rows.len();
            for (&(place, _), result) in rows.iter().zip(results) {
                match result {
                    Ok(item) => {
                        *stats.kinds.entry(item.kind).or_default() += 1;
                        stats.turns_without_stop += item.encoded.turns_without_stop;
                        stats.straddled += usize::from(item.encoded.straddled);
                        stats.rewritten += usize::from(item.encoded.rewritten);
                        stats.lengths.push(item.encoded.document.tokens.len());
                        take(stats, place, item)?;
                    }
                    Err(error) => self.bad_row(error, file.path, place, stats)?,
                }
            }
            rows = next?;
            watch(reader);
        }
        Ok(())
    }

    /// One row: parsed, encoded, and seen to have a loss token among those that are kept.
    fn row(
        &self,
        source: &Source,
        row: &RawRow,
        kind: Option<Kind>,
        evaluates: bool,
    ) -> Result<Item, EncodeError> {
        let (kind, record) = records::from_object(row.object()?, kind, &source.columns)?;
        records::check_vocabulary(&record, self.vocab)?;
        let encoded = self.encoder.encode(&record)?;
        let document = &encoded.document;
        if document.loss_tokens() == 0 {
            let why = match record {
                Record::Chat { .. } => "no assistant turn is to be learned",
                Record::Tokens { .. } => "every label behind the first is -100",
                _ => "it is too short",
            };
            return Err(RowProblem::NoLoss(why).into());
        }
        let most = self.options.max_length;
        let kept = document.loss_mask.iter().take(most).skip(1).any(|&loss| loss);
        let truncates = evaluates || self.options.too_long == TooLong::Truncate;
        if truncates && !kept {
            return Err(RowProblem::NoLoss("its loss tokens lie behind `max_length`").into());
        }
        let question = evaluates.then(|| self.encoder.prompt(&record)).transpose()?;
        Ok(Item { kind, encoded, question })
    }

    /// Stops, or counts the row.
    fn bad_row(
        &self,
        error: EncodeError,
        path: &Path,
        place: Place,
        stats: &mut Statistics,
    ) -> Result<(), Error> {
        let model = || self.encoder.tokenizer.path().to_path_buf();
        let problem = match error {
            EncodeError::Row(problem) => problem,
            // What no row can escape is not a row's fault.
            EncodeError::NoTemplate => return Err(Error::NoTemplate { path: model() }),
            EncodeError::NoEos => return Err(Error::NoEos { path: model() }),
            EncodeError::Tokenizer(source) => {
                return Err(Error::Tokenizer { path: path.into(), place, source });
            }
        };
        if self.options.on_bad_row == OnBadRow::Error {
            return Err(Error::Row { path: path.into(), place, problem });
        }
        stats.skip(&problem, &format!("{}{place}", path.display()));
        Ok(())
    }
}

/// The documents that a row gives: one, cut if it is too long, or its pieces.
fn fit(document: Document, options: &DataOptions, stats: &mut Statistics) -> Vec<Document> {
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
