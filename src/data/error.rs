//! What can go wrong between a data file and its packed tokens.

use std::path::PathBuf;

use crate::model::tokenizer;

/// What is wrong with one row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowProblem {
    #[error("not JSON: {0}")]
    Json(String),
    #[error("a row must be a JSON object, this is {0}")]
    NotAnObject(&'static str),
    /// Neither `messages` nor `prompt` and `completion`.
    #[error("has neither `messages` nor `prompt` and `completion` (its keys: {0})")]
    Kind(String),
    /// A row of the other kind than the file's first row.
    #[error("is a `{found}` row in a file of `{expected}` rows")]
    Mixed { expected: &'static str, found: &'static str },
    /// A key is missing or of a wrong type.
    #[error("`{key}` {problem}")]
    Key { key: String, problem: String },
    /// The chat template refused or changed something.
    #[error("{0}")]
    Template(String),
    /// Not one token that the loss counts.
    #[error("has no loss token: {0}")]
    NoLoss(&'static str),
}

/// Loading data failed. Every message names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// One row is bad and `on_bad_row` is `error`.
    #[error("{}:{line}: {problem}", path.display())]
    Row { path: PathBuf, line: usize, problem: RowProblem },
    /// Not one usable row in all files.
    #[error("no usable row in {} ({skipped} were skipped)", list(paths))]
    Empty { paths: Vec<PathBuf>, skipped: usize },
    /// No file was given.
    #[error("no data file was given")]
    NoFiles,
    /// The chat template cannot be used for any row.
    #[error("the chat template of {}: {problem}", path.display())]
    Template { path: PathBuf, problem: String },
    /// Chat rows for a model that has no chat template.
    #[error("{} has no chat template, and the data are `messages` rows", path.display())]
    NoTemplate { path: PathBuf },
    /// Plain rows need an end-of-sequence token.
    #[error("{} names no end-of-sequence token, and the data are `prompt` rows", path.display())]
    NoEos { path: PathBuf },
    #[error("`max_length` is {0}, documents need at least 2 tokens")]
    MaxLength(usize),
    #[error("{}:{line}: {source}", path.display())]
    Tokenizer { path: PathBuf, line: usize, source: tokenizer::Error },
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
                     [{\"role\": \"user\", \"content\": \"...\"}, ...]}"
                }
                RowProblem::Mixed { .. } => "split the file: one kind of row in each",
                RowProblem::NoLoss(_) => {
                    "give the row a completion or an assistant turn, raise `max_length`, or set \
                     `on_bad_row = \"skip\"`"
                }
                RowProblem::Template(_) => {
                    "change the row or the template, or set `on_bad_row = \"skip\"`"
                }
                _ => "mend the row, or set `on_bad_row = \"skip\"` to leave such rows out",
            },
            Error::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => {
                    "check the path: it is relative to the directory that dayrun is started in"
                }
                std::io::ErrorKind::IsADirectory => {
                    "it is a directory: name the JSONL files in it, one path or a list of paths"
                }
                _ => return None,
            },
            Error::Empty { skipped: 0, .. } => "is it the right file?",
            Error::Empty { .. } => "set `on_bad_row = \"error\"` to see what is wrong with them",
            Error::Template { .. } => "give a template of your own, or use `prompt` rows",
            Error::NoTemplate { .. } => {
                "use the model's instruct variant, give a chat template, or use `prompt` rows"
            }
            Error::NoEos { .. } => "add eos_token to the model's tokenizer_config.json",
            Error::Tokenizer { source, .. } => return source.hint(),
            _ => return None,
        };
        Some(hint.into())
    }
}
