//! What can be wrong with a run file.

use std::path::PathBuf;

use super::all_keys;
use crate::adapter::TargetError;
use crate::model::config::Linear;

/// Why a run file was refused. Nothing has been loaded yet when one of these is returned.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the run file {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("writing the run file {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("{}: not valid TOML: {message}\n  at {at}", path.display())]
    Syntax { path: PathBuf, at: String, message: String },
    #[error("`{key}` is given twice\n  at {at}")]
    Twice { key: String, at: String },
    #[error("unknown key `{key}`\n  at {at}")]
    UnknownKey { key: String, at: String, nearest: Option<String> },
    #[error("`{key}` is a section, but a value is given\n  at {at}")]
    NotASection { key: String, at: String },
    #[error("`{key}` is {value}, expected {expects}\n  at {at}")]
    Value { key: String, value: String, expects: &'static str, at: String },
    #[error("`lora.{key}` names `{name}`, expected linear layers of a decoder layer\n  at {at}")]
    Module { key: &'static str, name: String, at: String },
    #[error("{error}\n  at {at}")]
    Targets { error: TargetError, at: String },
    #[error("`{key}` is not supported: {what}\n  at {at}")]
    NotSupported { key: String, what: &'static str, at: String },
    #[error("`{key}` is missing\n  at {at}")]
    Missing { key: String, at: String, example: String },
    #[error("`{key}` is {value}, but `{other}` is {other_value}: {why}\n  at {at}")]
    Conflict {
        key: &'static str,
        value: Box<str>,
        other: &'static str,
        other_value: Box<str>,
        why: &'static str,
        advice: Box<str>,
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
            Self::Read { path, source } if source.kind() == std::io::ErrorKind::IsADirectory => {
                let file = path.join("run.toml");
                Some(format!("give the run file itself, such as {}", file.display()))
            }
            Self::Syntax { .. } => Some(
                "texts and paths stand in \"quotes\"; `dayrun init` prints a valid run file".into(),
            ),
            Self::Twice { key, .. } => Some(format!("keep one `{key}`")),
            Self::Value { key, value, .. } => value_hint(key, value),
            Self::Module { name, .. } => Some(module_hint(name)),
            Self::Targets { error, .. } => error.hint(),
            Self::NotSupported { .. } => Some("leave it out".into()),
            Self::Conflict { advice, .. } => Some(advice.to_string()),
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

/// A value that would do: the key's default, or its example.
fn value_hint(key: &str, value: &str) -> Option<String> {
    let known = all_keys().into_iter().find(|known| known.dotted() == key)?;
    let bare = value.trim_matches(['"', '\'']);
    if bare.len() < value.len() && bare.parse::<f64>().is_ok() {
        return Some(format!("without the quotes: {} = {bare}", known.name));
    }
    let (good, default) = match &known.default {
        Some(good) if known.example.is_empty() => (good.as_str(), " (the default)"),
        _ => (known.example, ""),
    };
    Some(format!("for example {} = {good}{default}", known.name))
}

/// The module that was meant, and all there are.
fn module_hint(name: &str) -> String {
    if name == "all-linear" {
        return "\"all-linear\" stands alone, not in a list".into();
    }
    let names = Linear::ALL.map(Linear::name);
    let all = format!("the modules are {}; \"all-linear\" takes them all", names.join(", "));
    let near = names.into_iter().map(|known| (strsim::jaro_winkler(name, known), known));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, known)) if score > 0.85 => format!("did you mean `{known}`? {all}"),
        _ => all,
    }
}
