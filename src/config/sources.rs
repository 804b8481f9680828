//! Where the data are: paths, or tables with a weight and column names of their own.

use serde::{Deserialize, Serialize};
use toml::Value;

use super::Data;
use super::error::ConfigError;
use super::read::Source as Given;
use crate::data::{Columns, Source};

/// One source of rows or a list of them; written as a list.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Sources(pub Vec<Source>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Source),
    Many(Vec<Source>),
}

impl From<OneOrMany> for Sources {
    fn from(sources: OneOrMany) -> Self {
        Sources(match sources {
            OneOrMany::One(source) => vec![source],
            OneOrMany::Many(sources) => sources,
        })
    }
}

impl Data {
    /// What to train on, each source with its columns' names.
    pub fn train_sources(&self) -> Vec<Source> {
        self.train.0.iter().cloned().map(|source| self.source(source)).collect()
    }

    /// What to evaluate on, each source with its columns' names.
    pub fn eval_sources(&self) -> Vec<Source> {
        self.eval.0.iter().cloned().map(|source| self.source(source)).collect()
    }

    /// A source; without names of its own for its columns, those of the section.
    pub fn source(&self, source: Source) -> Source {
        match source.columns.is_empty() {
            true => Source { columns: self.columns.clone(), ..source },
            false => source,
        }
    }
}

/// What of the data's tables is wrong, by its own name: the value as a whole would not show it.
pub(super) fn check(data: &toml::Table, given: &Given) -> Result<(), ConfigError> {
    for key in ["train", "eval"] {
        let dotted = format!("data.{key}");
        let entries = match data.get(key) {
            Some(Value::Array(entries)) => entries.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        for entry in entries.iter().filter_map(Value::as_table) {
            check_source(entry, &dotted, given)?;
        }
    }
    match data.get("columns").and_then(Value::as_table) {
        Some(columns) => check_columns(columns, "data.columns", "data.columns", given),
        None => Ok(()),
    }
}

fn check_source(entry: &toml::Table, key: &str, given: &Given) -> Result<(), ConfigError> {
    // Nothing is weighed in an evaluation.
    let known: &[&str] = match key {
        "data.eval" => &["path", "columns"],
        _ => &["path", "weight", "columns"],
    };
    if let Some(name) = entry.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(unknown(name, key, known, key, given));
    }
    match entry.get("path") {
        Some(Value::String(path)) if !path.is_empty() => {}
        path => return Err(value(&format!("{key}.path"), path, "a path", key, given)),
    }
    let weight = entry.get("weight");
    let number = weight.and_then(|w| w.as_float().or(w.as_integer().map(|w| w as f64)));
    if weight.is_some() && !number.is_some_and(|w| w > 0.0 && w <= 1000.0) {
        let expects = "a number above 0, at most 1000";
        return Err(value(&format!("{key}.weight"), weight, expects, key, given));
    }
    match entry.get("columns") {
        None => Ok(()),
        Some(Value::Table(columns)) => {
            check_columns(columns, &format!("{key}.columns"), key, given)
        }
        columns => {
            let expects = "a table of our names and yours";
            Err(value(&format!("{key}.columns"), columns, expects, key, given))
        }
    }
}

/// `key` names the table, `at` the key that it was given with.
fn check_columns(
    columns: &toml::Table,
    key: &str,
    at: &str,
    given: &Given,
) -> Result<(), ConfigError> {
    let known = Columns::known();
    for (name, column) in columns {
        if !known.contains(&name.as_str()) {
            return Err(unknown(name, key, &known, at, given));
        }
        if column.as_str().is_none_or(str::is_empty) {
            let key = format!("{key}.{name}");
            return Err(value(&key, Some(column), "a column's name", at, given));
        }
    }
    Ok(())
}

fn value(
    key: &str,
    value: Option<&Value>,
    expects: &'static str,
    at: &str,
    given: &Given,
) -> ConfigError {
    let value = value.map_or("missing".into(), Value::to_string);
    ConfigError::Value { key: key.into(), value, expects, at: given.place(at) }
}

fn unknown(name: &str, key: &str, known: &[&str], at: &str, given: &Given) -> ConfigError {
    let near = known.iter().map(|known| (strsim::jaro_winkler(name, known), known));
    let nearest = near.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(score, _)| *score > 0.8);
    ConfigError::UnknownKey {
        key: format!("{key}.{name}"),
        at: given.place(at),
        nearest: nearest.map(|(_, known)| format!("{key}.{known}")),
    }
}
