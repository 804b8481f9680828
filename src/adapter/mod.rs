//! LoRA on linear layers; PEFT directories in and out.

mod card;
mod error;
mod init;
mod inspect;
pub mod lora;
mod names;
mod pattern;
pub mod peft;
mod peft_config;
#[cfg(test)]
mod refusal_tests;
pub(crate) mod refused;
#[cfg(test)]
mod target_tests;
mod targets;
#[cfg(test)]
mod tests;

pub use error::{Misfit, PeftError};
pub use inspect::{AdapterInfo, Listed, Trained, inspect, list};
pub use lora::{Adapter, LoraConfig, LoraModule};
pub use names::{Names, OneOrMany, Patterns, TargetModules};
pub use peft::BaseModel;
pub(crate) use peft_config::RANKS;
pub use targets::{Target, TargetError};
