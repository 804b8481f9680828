//! config.json of a Hub directory: the Llama keys, and a refusal by name of everything else.

use std::path::Path;

use serde_json::Value;

use crate::model::Error;
use crate::model::config::LlamaConfig;

/// How the linears are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// F32, F16 or BF16; quantised on loading.
    Float,
    /// bitsandbytes' NF4, taken as it is.
    Bitsandbytes4bit,
}

/// Reads config.json at `path`. Missing optional keys take transformers' defaults.
///
/// Errors: [`Error::Unsupported`] naming the model type, activation, bias, rope scaling or
/// quantisation that is not supported; [`Error::Key`]; [`Error::Json`].
pub fn read(path: &Path) -> Result<(LlamaConfig, Storage), Error> {
    let io = |source| Error::Io { doing: "reading", path: path.into(), source };
    let text = std::fs::read(path).map_err(io)?;
    let json: Value = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { path: path.into(), source })?;
    let keys = Keys { path, json: &json };
    keys.refuse()?;
    let hidden_size = keys.required("hidden_size")?;
    let heads = keys.required("num_attention_heads")?;
    let head_dim = match keys.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let problem = format!("is {heads}, which does not divide hidden_size {hidden_size}");
            return Err(keys.error("num_attention_heads", problem));
        }
    };
    let config = LlamaConfig {
        vocab_size: keys.required("vocab_size")?,
        hidden_size,
        intermediate_size: keys.required("intermediate_size")?,
        num_hidden_layers: keys.required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: keys.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: keys.float("rms_norm_eps", &json["rms_norm_eps"])?.unwrap_or(1e-6),
        rope_theta: match keys.float("rope_theta", &json["rope_theta"])? {
            Some(theta) => theta,
            None => keys
                .float("rope_parameters.rope_theta", &json["rope_parameters"]["rope_theta"])?
                .unwrap_or(10_000.0),
        },
        max_position_embeddings: keys.size("max_position_embeddings")?.unwrap_or(2048),
        tie_word_embeddings: keys.flag("tie_word_embeddings")?,
    };
    config.validate(path)?;
    Ok((config, keys.storage()?))
}

struct Keys<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Keys<'_> {
    fn error(&self, key: &str, problem: String) -> Error {
        Error::Key { path: self.path.into(), key: key.into(), problem }
    }

    fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.path.into(), what }
    }

    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n > 0 => Ok(Some(n)),
                _ => Err(self.error(key, format!("is {value}, not a positive whole number"))),
            },
        }
    }

    fn required(&self, key: &str) -> Result<usize, Error> {
        self.size(key)?.ok_or_else(|| self.error(key, "is missing".into()))
    }

    fn float(&self, key: &str, value: &Value) -> Result<Option<f64>, Error> {
        match value {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(x) => Ok(Some(x)),
                None => Err(self.error(key, format!("is {value}, not a number"))),
            },
        }
    }

    fn flag(&self, key: &str) -> Result<bool, Error> {
        match &self.json[key] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            other => Err(self.error(key, format!("is {other}, not true or false"))),
        }
    }

    fn refuse(&self) -> Result<(), Error> {
        let json = self.json;
        match &json["model_type"] {
            Value::Null => return Err(self.error("model_type", "is missing".into())),
            Value::String(kind) if kind == "llama" => {}
            other => return Err(self.unsupported(format!("model_type {other}"))),
        }
        if let Value::Array(names) = &json["architectures"]
            && !names.iter().any(|name| name == "LlamaForCausalLM")
        {
            return Err(self.unsupported(format!("architectures {}", json["architectures"])));
        }
        if !json["hidden_act"].is_null() && json["hidden_act"] != "silu" {
            return Err(self.unsupported(format!("hidden_act {}", json["hidden_act"])));
        }
        for key in ["attention_bias", "mlp_bias"] {
            if self.flag(key)? {
                return Err(self.unsupported(format!("{key} true")));
            }
        }
        for key in ["sliding_window", "num_local_experts"] {
            if !json[key].is_null() {
                return Err(self.unsupported(format!("{key} {}", json[key])));
            }
        }
        if json["partial_rotary_factor"].as_f64().is_some_and(|factor| factor != 1.0) {
            let factor = &json["partial_rotary_factor"];
            return Err(self.unsupported(format!("partial_rotary_factor {factor}")));
        }
        // transformers 5 writes every model's rope as `rope_parameters`.
        for key in ["rope_scaling", "rope_parameters"] {
            let rope = &json[key];
            let kind = if rope["rope_type"].is_null() { &rope["type"] } else { &rope["rope_type"] };
            let plain = rope.is_null()
                || kind == "default"
                || (key == "rope_parameters" && kind.is_null() && rope["factor"].is_null());
            if !plain {
                return Err(self.unsupported(format!("{key} {rope}")));
            }
        }
        Ok(())
    }

    fn storage(&self) -> Result<Storage, Error> {
        let quantised = &self.json["quantization_config"];
        if quantised.is_null() {
            return Ok(Storage::Float);
        }
        // Old bitsandbytes configurations lack `quant_method`.
        let bitsandbytes =
            quantised["quant_method"].is_null() || quantised["quant_method"] == "bitsandbytes";
        if !bitsandbytes || quantised["load_in_4bit"] != true {
            let method = &quantised["quant_method"];
            return Err(self.unsupported(format!(
                "quantization_config (quant_method {method}, load_in_4bit {})",
                quantised["load_in_4bit"]
            )));
        }
        match &quantised["bnb_4bit_quant_type"] {
            Value::String(kind) if kind == "nf4" => Ok(Storage::Bitsandbytes4bit),
            other => Err(self.unsupported(format!("bnb_4bit_quant_type {other}"))),
        }
    }
}
