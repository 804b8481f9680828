//! What can go wrong between a data file and its packed tokens.

use std::fmt;
use std::path::PathBuf;

use super::rows::MAX_ROW_BYTES;
use crate::model::tokenizer;

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    #[error("not JSON: {0}")]
    Json(String),
    /// Bytes that are no text; counted from 1.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    #[error("is longer than {} MB, the most that a row may have", MAX_ROW_BYTES / 1_000_000)]
    TooLarge,
    #[error("a row must be a JSON object, this is {0}")]
    NotAnObject(&'static str),
    /// No key by which the kind of row could be told.
    #[error(
        "has none of `messages`, `conversations`, `prompt`, `instruction`, `input_ids` and `text` \
         (its keys: {0})"
    )]
    Kind(String),
    /// A row of another kind than the file's first row.
    #[error("is a `{found}` row in a file of `{expected}` rows")]
    Mixed { expected: &'static str, found: &'static str },
    /// A key is missing or of a wrong type.
    #[error("`{key}` {problem}")]
    Key { key: String, problem: String },
    /// The chat template refused or changed something.
    #[error("{0}")]
    Template(String),
    /// The chat template called `raise_exception`: its own words.
    #[error("{0}")]
    Raised(String),
    /// The chat template was stopped.
    #[error("{0}")]
    Endless(String),
    /// Not one token that the loss counts.
    #[error("has no loss token: {0}")]
    NoLoss(&'static str),
}

impl RowProblem {
    /// The problem in a few words, the same for all rows that have it: what skipped rows are counted by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Json(_) => "not JSON",
            Self::Utf8(_) => "not UTF-8",
            Self::TooLarge => "too large",
            Self::NotAnObject(_) => "not an object",
            Self::Kind(_) => "of no known kind",
            Self::Mixed { .. } => "of another kind than the first row",
            Self::Key { .. } => "a key missing or wrong",
            Self::Template(_) => "not for the chat template",
            Self::Raised(_) => "refused by the chat template",
            Self::Endless(_) => "the chat template did not end",
            Self::NoLoss(_) => "without a loss token",
        }
    }
}

/// Where a row stands: the line of a text file, or its number in a list or table, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Line(usize),
    Row(usize),
}

impl Place {
    /// The line's or row's number.
    pub fn number(self) -> usize {
        match self {
            Place::Line(number) | Place::Row(number) => number,
        }
    }
}

/// What follows a file's name: `:3`, or `, row 3`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Place::Line(number) => write!(f, ":{number}"),
            Place::Row(number) => write!(f, ", row {number}"),
        }
    }
}

/// Loading data failed. Every message names the file, and the line or row where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// One row is bad and `on_bad_row` is `error`.
    #[error("{}{place}: {problem}", path.display())]
    Row { path: PathBuf, place: Place, problem: RowProblem },
    /// Not a file of rows at all, or a damaged one.
    #[error("{} {problem}", path.display())]
    File { path: PathBuf, problem: String, advice: &'static str },
    /// Not one usable row in all files.
    #[error("no usable row in {} ({skipped} were skipped)", list(paths))]
    Empty { paths: Vec<PathBuf>, skipped: usize },
    /// No file was given.
    #[error("no data file was given")]
    NoFiles,
    /// A directory without data files.
    #[error("no data file in the directory {}", .0.display())]
    EmptyDirectory(PathBuf),
    /// The chat template cannot be used for any row.
    #[error("the chat template of {}: {problem}", path.display())]
    Template { path: PathBuf, problem: String },
    /// A template of ours whose tokens the tokenizer does not have.
    #[error(
        "the chat template \"{name}\" writes {token}, and the tokenizer of {} has no such token",
        path.display()
    )]
    NamedTemplate { path: PathBuf, name: &'static str, token: &'static str },
    /// Chat rows for a model that has no chat template.
    #[error("{} has no chat template, and the data are `messages` rows", path.display())]
    NoTemplate { path: PathBuf },
    /// Plain rows need an end-of-sequence token.
    #[error("{} names no end-of-sequence token, and the data are `prompt` rows", path.display())]
    NoEos { path: PathBuf },
    #[error("`max_length` is {0}, documents need at least 2 tokens")]
    MaxLength(usize),
    #[error("{}{place}: {source}", path.display())]
    Tokenizer { path: PathBuf, place: Place, source: tokenizer::Error },
    /// The file of tokens that do not fit into memory.
    #[error("{doing} the tokens in {}: {source}", dir.display())]
    Store { doing: &'static str, dir: PathBuf, source: std::io::Error },
    /// More documents than can be counted.
    #[error("the data have more than {} documents", u32::MAX)]
    TooMany,
    /// All rows were held out, or none.
    #[error("{share} of {rows} rows held out leaves {what}")]
    HeldOut { share: f64, rows: usize, what: &'static str },
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Row { problem, .. } => match problem {
                RowProblem::Kind(_) => {
                    "write {\"prompt\": \"...\", \"completion\": \"...\"} or {\"messages\": \
                     [{\"role\": \"user\", \"content\": \"...\"}, ...]}, or name the columns: \
                     `columns = { prompt = \"question\", completion = \"answer\" }`"
                }
                RowProblem::Mixed { .. } => "split the file: one kind of row in each",
                RowProblem::NoLoss(_) => {
                    "give the row a completion or an assistant turn, raise `max_length`, or set \
                     `on_bad_row = \"skip\"`"
                }
                RowProblem::Template(_) => {
                    "change the row or the template, or set `on_bad_row = \"skip\"`"
                }
                RowProblem::Raised(_) => {
                    "this is the template's own rule: change the row to what it asks for, give another \
                     template (`data.chat_template`), or set `on_bad_row = \"skip\"`"
                }
                RowProblem::Endless(_) => {
                    "no chat needs so many: give another template (`data.chat_template`)"
                }
                RowProblem::Utf8(_) => {
                    "write the file anew as UTF-8, or set `on_bad_row = \"skip\"` to leave such rows out"
                }
                _ => "mend the row, or set `on_bad_row = \"skip\"` to leave such rows out",
            },
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "check the path: it is relative to the directory that dayrun is started in"
                }
                _ => return None,
            },
            Error::File { advice, .. } => advice,
            Error::Empty { skipped: 0, .. } => "is it the right file?",
            Error::Empty { .. } => "set `on_bad_row = \"error\"` to see what is wrong with them",
            Error::EmptyDirectory(_) => "data files are named *.jsonl, *.json or *.parquet",
            Error::Template { .. } => "give a template of your own, or use `prompt` rows",
            Error::NamedTemplate { .. } => {
                "take `data.chat_template = \"alpaca\"` or \"mistral\", which need no tokens of their \
                 own: without it the model would be taught to spell the token's name"
            }
            Error::NoTemplate { .. } => {
                "use the model's instruct variant, give a chat template (`data.chat_template`: a file, or \
                 \"chatml\", \"llama-3\", \"mistral\" or \"alpaca\"), or use `prompt` rows"
            }
            Error::NoEos { .. } => "add eos_token to the model's tokenizer_config.json",
            Error::Tokenizer { source, .. } => return source.hint(),
            Error::Store { .. } => {
                "set DAYRUN_CACHE to a directory on a disk with room: four bytes a token are needed"
            }
            Error::HeldOut { .. } => "change data.eval_share, or name files in data.eval",
            _ => return None,
        };
        Some(hint.into())
    }
}
