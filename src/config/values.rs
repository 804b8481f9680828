//! The value types of the run file that are not plain numbers.

use serde::{Deserialize, Serialize};

/// How the base's linears are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    Nf4,
    /// As they are: plain LoRA.
    None,
}

/// Type of the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    F32,
    Bf16,
}

/// How a GPU multiplies with a 4-bit weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Nf4Linear {
    /// By shape.
    Auto,
    /// The kernel decodes as it multiplies.
    Fused,
    /// The weight is decoded into memory, and multiplied from there.
    Scratch,
}

/// What to do with a document longer than `max_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TooLong {
    Truncate,
    Split,
}

/// What to do with a row that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRow {
    Error,
    Skip,
}

/// What a prompt/completion row becomes on a model with a chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptAs {
    Text,
    Chat,
}

/// Variables for a chat template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Variables(pub toml::Table);

impl Variables {
    /// As a template sees them; a date is its text.
    pub fn json(&self) -> serde_json::Map<String, serde_json::Value> {
        self.0.iter().map(|(name, value)| (name.clone(), json(value))).collect()
    }
}

fn json(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(n) => (*n).into(),
        toml::Value::Float(x) => (*x).into(),
        toml::Value::Boolean(flag) => (*flag).into(),
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(list) => list.iter().map(json).collect(),
        toml::Value::Table(table) => Variables(table.clone()).json().into(),
    }
}

/// The learning rate's way down after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    Cosine,
    Linear,
    Constant,
}

/// Length of the warm-up: updates, or a share of all updates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Warmup {
    Steps(u64),
    Ratio(f64),
}

impl Warmup {
    pub(super) fn is_valid(&self) -> bool {
        match self {
            Warmup::Steps(steps) => *steps <= i64::MAX as u64,
            Warmup::Ratio(ratio) => (0.0..1.0).contains(ratio),
        }
    }

    /// The number of updates out of `total`; a share is rounded up, as transformers does.
    pub fn steps(self, total: u64) -> u64 {
        match self {
            Warmup::Steps(steps) => steps,
            Warmup::Ratio(ratio) => (ratio * total as f64).ceil() as u64,
        }
    }
}
