//! The run file: typed, documented, validated before anything loads.
//!
//! ```
//! let text = "[model]\npath = 'models/smol'\n[data]\ntrain = 'train.jsonl'\n";
//! let sets = ["train.learning_rate=1e-3".to_string()];
//! let (run, _) = dayrun::config::parse(text, "run.toml".as_ref(), &sets)?;
//! assert_eq!(run.train.learning_rate, 1e-3);
//! assert_eq!(run.lora.r, 16);
//! # Ok::<(), dayrun::config::ConfigError>(())
//! ```

mod device;
mod error;
mod keys;
mod lora;
mod read;
mod render;
mod section;
mod sources;
#[cfg(test)]
mod tests;
mod values;

pub use device::{ByteSize, DeviceChoice, Threads};
pub use error::ConfigError;
pub use keys::{Data, Dispatch, Eval, Lora, Model, Train};
pub use read::{Source, load, parse};
pub use section::Key;
pub use sources::Sources;
pub use values::{
    ComputeDtype, Nf4Linear, OnRow, PromptAs, Quantization, ScheduleKind, TooLong, Variables,
    Warmup,
};

/// A whole run file.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct RunFile {
    pub model: Model,
    pub data: Data,
    pub lora: Lora,
    pub train: Train,
    pub eval: Eval,
    pub dispatch: Dispatch,
}

/// The sections' names, in the order of the file.
pub fn sections() -> [&'static str; 6] {
    [Model::SECTION, Data::SECTION, Lora::SECTION, Train::SECTION, Eval::SECTION, Dispatch::SECTION]
}

/// Every key of the run file, in the order of the file.
pub fn all_keys() -> Vec<Key> {
    let keys = [Model::keys(), Data::keys(), Lora::keys(), Train::keys(), Eval::keys()];
    [keys.concat(), Dispatch::keys()].concat()
}
