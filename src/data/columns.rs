//! Column names of other people's tables: which of theirs is which of ours.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::RowProblem;
use super::records::Kind;

/// Our names and theirs: `{ prompt = "question", completion = "answer" }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Columns(pub BTreeMap<String, String>);

impl Columns {
    /// Every name that a column can be given.
    pub fn known() -> Vec<&'static str> {
        let mut all = Vec::new();
        for name in Kind::ALL.iter().flat_map(|kind| kind.keys()) {
            if !all.contains(name) && *name != "history" {
                all.push(*name);
            }
        }
        all
    }

    /// Whether no column has another name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kind of row that the names are for, if they tell it.
    pub fn kind(&self) -> Option<Kind> {
        let has = |key: &str| self.0.contains_key(key);
        // Not all keys tell a kind, but `output` alone is Alpaca's.
        Kind::of(has).or_else(|| has("output").then_some(Kind::Alpaca))
    }

    /// What the table calls our column `name`.
    pub fn theirs<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.get(name).map_or(name, String::as_str)
    }

    /// Gives a row's keys our names.
    pub(super) fn rename(&self, row: &mut Map<String, Value>) {
        // All are taken before the first is put: two columns may have each other's name.
        let take = |(ours, theirs): (&String, &String)| (ours.clone(), row.remove(theirs));
        let taken: Vec<_> = self.0.iter().map(take).collect();
        for (ours, value) in taken {
            if let Some(value) = value {
                row.insert(ours, value);
            }
        }
    }

    /// A problem that names the columns as the table does.
    pub(super) fn as_given(&self, problem: RowProblem) -> RowProblem {
        match problem {
            RowProblem::Key { key, problem } => {
                let end = key.find(['[', '.']).unwrap_or(key.len());
                let key = format!("{}{}", self.theirs(&key[..end]), &key[end..]);
                RowProblem::Key { key, problem }
            }
            other => other,
        }
    }
}
