//! One error over all parts, for whoever drives a whole run.

use crate::adapter::{PeftError, TargetError};
use crate::config::ConfigError;
use crate::data;
use crate::device::cpu::UnknownLevel;
use crate::model::generate::GenerateError;
use crate::model::{self, EngineError, tokenizer};
use crate::train::{DeviceError, EvaluateError, ProofError, RunDirError, SavedAdapter, StepError};

/// What can end a run. Each part's own error says what was being done and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Level(#[from] UnknownLevel),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Model(#[from] model::Error),
    #[cfg(feature = "cli")]
    #[error(transparent)]
    Source(#[from] model::source::NotFound),
    #[cfg(feature = "cli")]
    #[error(transparent)]
    Hub(#[from] model::source::HubError),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Pack(#[from] data::pack::TooLong),
    #[error(transparent)]
    Adapter(#[from] PeftError),
    #[error("[lora] of the run file: {0}")]
    Targets(#[from] TargetError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// What ended a run after its directory had been made, and what is in there now.
    #[error("{error}")]
    Halted { error: Box<Error>, adapter: SavedAdapter },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Config(e) => e.hint(),
            Error::Level(e) => e.hint(),
            Error::Device(e) => e.hint(),
            Error::Model(e) => e.hint(),
            #[cfg(feature = "cli")]
            Error::Source(e) => e.hint(),
            #[cfg(feature = "cli")]
            Error::Hub(e) => e.hint(),
            Error::Tokenizer(e) => e.hint(),
            Error::Data(e) => e.hint(),
            Error::Adapter(e) => e.hint(),
            Error::Targets(e) => e.hint(),
            Error::Step(e) => e.hint(),
            Error::Evaluate(e) => e.hint(),
            Error::Proof(e) => e.hint(),
            Error::RunDir(e) => e.hint(),
            Error::Pack(_) => {
                Some("set data.max_length to at most train.micro_batch_tokens".into())
            }
            Error::Halted { error, adapter } => Some(match error.hint() {
                Some(hint) => format!("{hint}; {adapter}"),
                None => adapter.to_string(),
            }),
            Error::Engine(e) => e.hint(),
            Error::Generate(GenerateError::Engine(e)) => e.hint(),
            Error::Generate(_) => None,
        }
    }
}
