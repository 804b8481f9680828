//! What can be wrong with a run file.

use std::path::PathBuf;

/// Why a run file was refused. Nothing has been loaded yet when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the run file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing the run file {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}: not valid TOML: {message}\n  at {at}", path.display())]
    Syntax { path: PathBuf, at: String, message: String },
    #[error("unknown key `{key}`\n  at {at}")]
    UnknownKey { key: String, at: String, nearest: Option<String> },
    #[error("`{key}` is a section, but a value is given\n  at {at}")]
    NotASection { key: String, at: String },
    #[error("`{key}` is {value}, expected {expects}\n  at {at}")]
    Value { key: String, value: String, expects: &'static str, at: String },
    #[error("`{key}` is missing\n  at {at}")]
    Missing { key: String, at: String, example: String },
    #[error("`{key}` is {value}, but `{other}` is {other_value}: {why}\n  at {at}")]
    Conflict {
        key: &'static str,
        value: usize,
        other: &'static str,
        other_value: usize,
        why: &'static str,
        at: String,
    },
    #[error("--set {set}: expected key=value")]
    BadSet { set: String },
}

impl ConfigError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Some("`dayrun init run.toml` writes a commented run file to start from".into())
            }
            Self::UnknownKey { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`?"))
            }
            Self::UnknownKey { .. } => {
                Some("`dayrun init` prints every key with its meaning".into())
            }
            Self::NotASection { key, .. } => Some(format!(
                "`{key}` holds keys of its own: `{key}.KEY = VALUE`, or `[{key}]` on a line before them"
            )),
            Self::Missing { key, example, .. } => {
                let (section, name) = key.split_once('.').unwrap_or(("", key));
                Some(format!("for example, under [{section}]: {name} = {example}"))
            }
            Self::BadSet { .. } => Some(
                "for example --set train.learning_rate=1e-4; keys are dotted, values are TOML"
                    .into(),
            ),
            _ => None,
        }
    }
}
