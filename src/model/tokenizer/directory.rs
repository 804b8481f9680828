//! A tokenizer from a Hub directory.
//!
//! Read: `tokenizer.json` (required), `tokenizer_config.json` (special tokens, chat template),
//! `chat_template.jinja` (wins over the template in the configuration, as in transformers),
//! `generation_config.json` and `config.json` (`eos_token_id`, one id or a list).

use std::path::Path;

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use super::{Error, Parts, Problem, SpecialTokens, guard};

pub(super) fn read(directory: &Path) -> Result<Parts, Error> {
    let path = directory.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
    let inner =
        guard(&path, "reading it", || Tokenizer::from_bytes(&bytes)).map_err(|problem| {
            match problem {
                Problem::Panic(error) => error,
                Problem::Library(problem) => Error::Build { path: path.clone(), problem },
            }
        })?;
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some_and(|p| p > 0.0)
    {
        return Err(Error::Unsupported { path, what: "BPE dropout (random tokenisation)".into() });
    }

    let config_path = directory.join("tokenizer_config.json");
    let config = optional_json(&config_path)?.unwrap_or(Value::Null);
    let special = SpecialTokens {
        bos: token(&config, "bos_token"),
        eos: token(&config, "eos_token"),
        unk: token(&config, "unk_token"),
        pad: token(&config, "pad_token"),
    };
    // Only the Llama classes of transformers follow these keys; the others, the post-processor.
    let class = config["tokenizer_class"].as_str().unwrap_or_default();
    let follows = class.starts_with("LlamaTokenizer") || class.starts_with("CodeLlamaTokenizer");
    let flag = |key: &str| config[key].as_bool().filter(|_| follows);

    let template_path = directory.join("chat_template.jinja");
    let chat_template = match optional_text(&template_path)? {
        Some(text) => Some(text),
        None => template(&config_path, &config["chat_template"])?,
    };

    let mut stop = Vec::new();
    for name in ["generation_config.json", "config.json"] {
        let path = directory.join(name);
        if let Some(json) = optional_json(&path)? {
            stop.extend(ids(&path, &json["eos_token_id"])?);
        }
    }
    Ok(Parts {
        path,
        inner,
        special,
        stop,
        add_bos: flag("add_bos_token"),
        add_eos: flag("add_eos_token"),
        chat_template,
    })
}

/// A special token: its text, or an object with the text under `content`.
fn token(config: &Value, key: &str) -> Option<String> {
    let value = &config[key];
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_string)
}

/// The chat template: a text, or a list of named ones of which `default` is taken.
fn template(path: &Path, value: &Value) -> Result<Option<String>, Error> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Array(list) => list
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
            .map(|text| Some(text.into()))
            .ok_or_else(|| Error::Key {
                path: path.into(),
                key: "chat_template".into(),
                problem: "is a list without a template named `default`".into(),
            }),
        _ => Err(Error::Key {
            path: path.into(),
            key: "chat_template".into(),
            problem: "is neither a text nor a list of named templates".into(),
        }),
    }
}

/// `eos_token_id`: nothing, one id or a list.
fn ids(path: &Path, value: &Value) -> Result<Vec<u32>, Error> {
    let one = |v: &Value| {
        v.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| Error::Key {
            path: path.into(),
            key: "eos_token_id".into(),
            problem: format!("holds {v}, not a token id"),
        })
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn optional_text(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.into(), source }),
    }
}

fn optional_json(path: &Path) -> Result<Option<Value>, Error> {
    let parse = |text: String| {
        serde_json::from_str(&text).map_err(|source| Error::Json { path: path.into(), source })
    };
    optional_text(path)?.map(parse).transpose()
}
