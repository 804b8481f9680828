//! What a model is, from its configuration and its files' headers: no tensor is read, so a model of any size
//! is looked at in a moment. What is not supported is described as far as it is understood.

mod found;
mod memory;
mod tensors;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::config::LlamaConfig;
use super::hub::Checkpoint;
use super::hub::config::Storage;
use super::hub::shards::Shards;
use super::load::check_source;
use super::tokenizer::TextTokenizer;
use super::{Error, family, hub};
pub use found::Found;
pub use memory::Memory;
pub use tensors::{Dtype, Group, Tensors};

/// A model on the disk.
#[derive(Clone, Debug, Serialize)]
pub struct ModelInfo {
    pub path: PathBuf,
    /// `Hugging Face directory` or `GGUF file`.
    pub format: &'static str,
    /// What the files call it, whether it is supported or not.
    pub found: Found,
    /// The family that it is of, where it is supported.
    pub family: Option<&'static str>,
    /// Why it cannot be used. Nothing: it can.
    pub refusals: Vec<Refusal>,
    /// Its configuration, where that is supported.
    pub config: Option<LlamaConfig>,
    /// `None`: its files could not be read.
    pub tensors: Option<Tensors>,
    /// Its linears lie there in 4 bits already, and are taken as they are.
    pub quantised: bool,
    /// What it comes to in memory, where it is supported.
    pub memory: Option<Memory>,
    pub tokenizer: Option<TokenizerInfo>,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, Serialize)]
pub struct Refusal {
    pub problem: String,
    pub hint: Option<String>,
}

impl Refusal {
    fn of(error: &Error) -> Self {
        Self { problem: error.to_string(), hint: error.hint() }
    }
}

/// A model's tokenizer.
#[derive(Clone, Debug, Serialize)]
pub struct TokenizerInfo {
    /// Tokens, added ones included.
    pub vocabulary: usize,
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub pad: Option<String>,
    /// What ends a generation.
    pub stop: Vec<String>,
    pub has_chat_template: bool,
}

impl TokenizerInfo {
    /// Of a tokenizer that is loaded.
    pub fn of(tokenizer: &TextTokenizer) -> Self {
        let special = tokenizer.special_tokens();
        let stop = tokenizer.stop_ids().iter().filter_map(|&id| tokenizer.token(id));
        Self {
            vocabulary: tokenizer.vocab_size(),
            bos: special.bos.clone(),
            eos: special.eos.clone(),
            pad: special.pad.clone(),
            stop: stop.collect(),
            has_chat_template: tokenizer.chat_template().is_some(),
        }
    }
}

/// What the model at `path`, a Hub directory or a `.gguf` file, is.
///
/// Errors: there is nothing to look at: no such file, no model, no configuration that could be read.
/// What is there and not supported is no error here, but one of [`ModelInfo::refusals`].
pub fn inspect(path: &Path) -> Result<ModelInfo, Error> {
    let io = |source| Error::Io { doing: "opening", path: path.into(), source };
    std::fs::metadata(path).map_err(io)?;
    check_source(path)?;
    let mut info = if path.is_dir() { directory(path)? } else { gguf(path)? };
    match TextTokenizer::load(path) {
        Ok(tokenizer) => {
            info.tokenizer = Some(TokenizerInfo::of(&tokenizer));
            let vocab = info.config.as_ref().map(|config| config.vocab_size);
            if let Some(Err(error)) = vocab.map(|vocab| tokenizer.check_vocab(path, vocab)) {
                info.refusals.push(Refusal { problem: error.to_string(), hint: error.hint() });
            }
        }
        Err(error) => {
            info.refusals.push(Refusal { problem: error.to_string(), hint: error.hint() });
        }
    }
    Ok(info)
}

fn directory(path: &Path) -> Result<ModelInfo, Error> {
    let config_path = path.join("config.json");
    let found = Found::in_config(&config_path)?;
    let mut info = ModelInfo {
        path: path.into(),
        format: "Hugging Face directory",
        family: found.model_type.as_deref().and_then(family::of_model_type).map(|f| f.name),
        found,
        refusals: Vec::new(),
        config: None,
        tensors: None,
        quantised: false,
        memory: None,
        tokenizer: None,
    };
    // A checkpoint as a whole says all that is wrong with it; its parts are looked at on their own.
    if let Err(error) = Checkpoint::open(path) {
        info.refusals.push(Refusal::of(&error));
    }
    if let Ok(shards) = Shards::open(path) {
        info.tensors = Some(Tensors::of_shards(&shards));
    }
    if let Ok((config, storage)) = hub::config::read(&config_path) {
        info.quantised = storage == Storage::Bitsandbytes4bit;
        info.memory = Some(Memory::of(&config));
        info.config = Some(config);
    }
    Ok(info)
}

#[cfg(feature = "gguf")]
fn gguf(path: &Path) -> Result<ModelInfo, Error> {
    let gguf = super::gguf::Gguf::open(path)?;
    let config = gguf.config();
    let found = Found::in_gguf(&gguf);
    let mut info = ModelInfo {
        path: path.into(),
        format: "GGUF file",
        family: found.model_type.as_deref().and_then(family::of_gguf).map(|f| f.name),
        found,
        refusals: Vec::new(),
        config: None,
        tensors: Some(Tensors::of_gguf(&gguf)),
        quantised: false,
        memory: None,
        tokenizer: None,
    };
    match config.and_then(|config| gguf.check_tensors(&config).map(|()| config)) {
        Ok(config) => {
            info.memory = Some(Memory::of(&config));
            info.config = Some(config);
        }
        Err(error) => info.refusals.push(Refusal::of(&error)),
    }
    Ok(info)
}

#[cfg(not(feature = "gguf"))]
fn gguf(path: &Path) -> Result<ModelInfo, Error> {
    Err(Error::NoGguf { path: path.into() })
}
