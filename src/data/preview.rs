//! Data looked at before any training: what the rows are without a model, and how a document's loss falls.

use super::dataset::Document;
use super::error::Error;
use super::files;
use super::mix::Source;
use super::records;
use super::rows::Reader;
use super::statistics::Statistics;
use crate::model::tokenizer::{self, TextTokenizer};

/// A piece of a document's text, all of it with loss or none of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Segment {
    pub text: String,
    /// The loss counts its tokens as targets.
    pub loss: bool,
}

/// A document's text, special tokens included, cut where the loss begins and ends.
///
/// Errors: the tokenizer cannot decode.
pub fn segments(
    document: &Document,
    tokenizer: &TextTokenizer,
) -> Result<Vec<Segment>, tokenizer::Error> {
    let ids = &document.tokens;
    let mut all: Vec<Segment> = Vec::new();
    let (mut start, mut before) = (0, String::new());
    while start < ids.len() {
        // The first token is never a target.
        let learned = |i: usize| i > 0 && document.loss_mask[i];
        let loss = learned(start);
        let end = (start..ids.len()).find(|&i| learned(i) != loss).unwrap_or(ids.len());
        // What a piece adds to the text before it: some tokenizers drop a space at a text's beginning.
        let whole = tokenizer.decode_with_special(&ids[..end])?;
        let text = match whole.strip_prefix(&before) {
            Some(text) => text.to_string(),
            None => tokenizer.decode_with_special(&ids[start..end])?,
        };
        all.push(Segment { text, loss });
        (start, before) = (end, whole);
    }
    Ok(all)
}

/// Counts the rows of `sources` by kind and what is wrong with them, without a tokenizer: lengths, and what
/// only a chat template can find, are not in it.
///
/// Errors: a file cannot be read, or is damaged.
pub fn survey(sources: &[Source]) -> Result<Statistics, Error> {
    let mut stats = Statistics::default();
    for source in sources {
        for path in files::expand(&source.path)? {
            let mut kind = None;
            let mut reader = Reader::open(&path, &source.columns)?;
            loop {
                let rows = reader.chunk()?;
                if rows.is_empty() {
                    break;
                }
                for (place, row) in rows {
                    stats.rows += 1;
                    let record =
                        row.object().and_then(|o| records::from_object(o, kind, &source.columns));
                    match record {
                        Ok((found, _)) => {
                            kind = kind.or(Some(found));
                            *stats.kinds.entry(found).or_default() += 1;
                        }
                        Err(problem) => {
                            stats.skip(&problem, &format!("{}{place}", path.display()));
                        }
                    }
                }
            }
        }
    }
    Ok(stats)
}
