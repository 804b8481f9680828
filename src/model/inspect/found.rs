//! What a model's files say of it, read without asking whether it is supported.

use std::path::Path;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::model::Error;

/// What the files say, as they say it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Found {
    /// `general.name` of a GGUF file.
    pub name: Option<String>,
    /// `model_type` of config.json, `general.architecture` of a GGUF file.
    pub model_type: Option<String>,
    /// `architectures` of config.json.
    pub architectures: Vec<String>,
    /// Sizes under their own names: `hidden_size`, or `llama.embedding_length`.
    pub sizes: Map<String, Value>,
}

/// Keys of config.json that say how large a model is, in most families.
const SIZES: [&str; 10] = [
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
    "num_local_experts",
];

impl Found {
    /// Errors: the file cannot be read, or is not JSON.
    pub(super) fn in_config(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { doing: "reading", path: path.into(), source };
        let text = std::fs::read(path).map_err(io)?;
        let json: Value = serde_json::from_slice(&text)
            .map_err(|source| Error::Json { path: path.into(), source })?;
        let text = |value: &Value| value.as_str().map(str::to_string);
        let architectures = json["architectures"].as_array();
        // Models that also see or hear keep their decoder's sizes one level down.
        let decoder = if json["hidden_size"].is_null() { &json["text_config"] } else { &json };
        let sizes = SIZES.iter().filter(|key| decoder[**key].is_number());
        Ok(Self {
            name: None,
            model_type: text(&json["model_type"]),
            architectures: architectures.iter().flat_map(|a| a.iter()).filter_map(text).collect(),
            sizes: sizes.map(|key| (key.to_string(), decoder[*key].clone())).collect(),
        })
    }

    #[cfg(feature = "gguf")]
    pub(super) fn in_gguf(gguf: &crate::model::gguf::Gguf) -> Self {
        use crate::model::gguf::Value as Meta;

        let text = |key: &str| match gguf.metadata.get(key) {
            Some(Meta::String(text)) => Some(text.clone()),
            _ => None,
        };
        let model_type = text("general.architecture");
        let prefix = format!("{}.", model_type.as_deref().unwrap_or_default());
        let sizes = gguf.metadata.iter().filter(|(key, _)| key.starts_with(&prefix));
        let size = |(key, value): (&String, &Meta)| match value {
            Meta::Int(n) => Some((key.clone(), i64::try_from(*n).ok()?.into())),
            _ => None,
        };
        let mut sizes: Vec<(String, Value)> = sizes.filter_map(size).collect();
        sizes.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            name: text("general.name"),
            model_type,
            architectures: Vec::new(),
            sizes: sizes.into_iter().collect(),
        }
    }
}
