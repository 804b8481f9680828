//! The value types of the run file that are not plain numbers.

use serde::{Deserialize, Serialize};

use crate::model::config::Linear;

/// How the base's linears are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Quantization {
    Nf4,
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

/// Which linears are adapted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "NameOrList", into = "NameOrList")]
pub enum TargetModules {
    /// Every linear but the head.
    AllLinear,
    /// Modules by name.
    List(Vec<String>),
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum NameOrList {
    Name(String),
    List(Vec<String>),
}

impl TryFrom<NameOrList> for TargetModules {
    type Error = String;

    fn try_from(value: NameOrList) -> Result<Self, String> {
        match value {
            NameOrList::Name(name) if name == "all-linear" => Ok(TargetModules::AllLinear),
            NameOrList::Name(name) => Ok(TargetModules::List(vec![name])),
            NameOrList::List(names) => Ok(TargetModules::List(names)),
        }
    }
}

impl From<TargetModules> for NameOrList {
    fn from(value: TargetModules) -> Self {
        match value {
            TargetModules::AllLinear => NameOrList::Name("all-linear".into()),
            TargetModules::List(names) => NameOrList::List(names),
        }
    }
}

impl TargetModules {
    /// Non-empty, and each one a linear of a decoder layer.
    pub(super) fn is_valid(&self) -> bool {
        match self {
            TargetModules::AllLinear => true,
            TargetModules::List(names) => {
                !names.is_empty()
                    && names.iter().all(|name| Linear::ALL.iter().any(|l| l.name() == name))
            }
        }
    }

    /// The module names, in the order of the model, each once.
    pub fn names(&self) -> Vec<String> {
        Linear::ALL
            .iter()
            .map(|linear| linear.name())
            .filter(|name| match self {
                TargetModules::AllLinear => true,
                TargetModules::List(names) => names.iter().any(|n| n == name),
            })
            .map(str::to_string)
            .collect()
    }
}
