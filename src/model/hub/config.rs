//! config.json of a Hub directory: the keys that all families have, and a refusal by name of what none has.
//! What a family has of its own is read in its file under `model::family`.

use std::path::Path;

use serde_json::Value;

use crate::model::Error;
use crate::model::config::LlamaConfig;
use crate::model::family::{self, Differences, Family};
use crate::model::rope_scaling::RopeScaling;

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
    let family = keys.family()?;
    keys.refuse()?;
    let defaults = &family.defaults;
    let hidden_size = keys.required("hidden_size")?;
    let heads = keys.required("num_attention_heads")?;
    let head_dim = match keys.size("head_dim")?.or(defaults.head_dim) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let problem = format!("is {heads}, which does not divide hidden_size {hidden_size}");
            return Err(keys.error("num_attention_heads", problem));
        }
    };
    // A key that is null, other than one that is missing, means as many as attention heads.
    let kv_heads = match json.get("num_key_value_heads") {
        None => defaults.num_key_value_heads,
        Some(_) => keys.size("num_key_value_heads")?,
    };
    let layers = keys.required("num_hidden_layers")?;
    let max_position_embeddings =
        keys.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings);
    let config = LlamaConfig {
        vocab_size: keys.required("vocab_size")?,
        hidden_size,
        intermediate_size: keys.required("intermediate_size")?,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads.unwrap_or(heads),
        head_dim,
        rms_norm_eps: keys.float("rms_norm_eps", &json["rms_norm_eps"])?.unwrap_or(1e-6),
        rope_theta: match keys.float("rope_theta", &json["rope_theta"])? {
            Some(theta) => theta,
            None => keys
                .float("rope_parameters.rope_theta", &json["rope_parameters"]["rope_theta"])?
                .unwrap_or(defaults.rope_theta),
        },
        max_position_embeddings,
        tie_word_embeddings: keys
            .flag("tie_word_embeddings")?
            .unwrap_or(defaults.tie_word_embeddings),
        // The list of layers is as long as their number says: that is checked first.
        differences: Differences::default(),
    };
    config.validate(path)?;
    let differences = Differences {
        rope_scaling: keys.rope_scaling(max_position_embeddings)?,
        ..(family.differences)(&keys, layers)?
    };
    let config = LlamaConfig { differences, ..config };
    config.validate(path)?;
    Ok((config, keys.storage()?))
}

/// A config.json, and the readers of its keys. A key that is null reads as one that is missing.
pub struct Keys<'a> {
    path: &'a Path,
    json: &'a Value,
}

impl Keys<'_> {
    /// What is wrong with a key.
    pub fn error(&self, key: &str, problem: String) -> Error {
        Error::Key { path: self.path.into(), key: key.into(), problem }
    }

    /// What is not supported.
    pub fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.path.into(), what }
    }

    /// A whole number above 0.
    pub fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.count(key)? {
            Some(0) => Err(self.error(key, "is 0, not a positive whole number".into())),
            size => Ok(size),
        }
    }

    /// As [`Keys::size`]; `Some(None)` for a key that is there and null.
    pub fn size_or_null(&self, key: &str) -> Result<Option<Option<usize>>, Error> {
        match self.json.get(key) {
            None => Ok(None),
            Some(_) => Ok(Some(self.size(key)?)),
        }
    }

    /// A whole number from 0.
    pub fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) => Ok(Some(n)),
                None => Err(self.error(key, format!("is {value}, not a positive whole number"))),
            },
        }
    }

    /// A list with true or false, or 1 or 0, for each of at least so many layers.
    pub fn flags(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, Error> {
        let flag = |value: &Value| value.as_bool().or(value.as_u64().map(|n| n != 0));
        self.layered(key, layers, flag, "a list of 0 and 1, one for each layer")
    }

    /// Which layers of `layer_types` slide.
    pub fn layer_types(&self, layers: usize) -> Result<Option<Vec<bool>>, Error> {
        let slides = |value: &Value| match value.as_str() {
            Some("full_attention") => Some(false),
            Some("sliding_attention") => Some(true),
            _ => None,
        };
        let expected = "a list of \"full_attention\" and \"sliding_attention\", one for each layer";
        self.layered("layer_types", layers, slides, expected)
    }

    fn layered(
        &self,
        key: &str,
        layers: usize,
        read: impl Fn(&Value) -> Option<bool>,
        expected: &str,
    ) -> Result<Option<Vec<bool>>, Error> {
        let value = &self.json[key];
        if value.is_null() {
            return Ok(None);
        }
        let list = value.as_array().filter(|list| list.len() >= layers);
        let read = list.and_then(|list| list[..layers].iter().map(read).collect());
        match read {
            Some(list) => Ok(Some(list)),
            None => Err(self.error(key, format!("is {value}, not {expected} (of {layers})"))),
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

    /// true or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        match &self.json[key] {
            Value::Null => Ok(None),
            Value::Bool(flag) => Ok(Some(*flag)),
            other => Err(self.error(key, format!("is {other}, not true or false"))),
        }
    }

    /// The family that `model_type` names, if `architectures` names its language model.
    fn family(&self) -> Result<&'static Family, Error> {
        let json = self.json;
        let family = match &json["model_type"] {
            Value::Null => return Err(self.error("model_type", "is missing".into())),
            Value::String(name) => family::of_model_type(name),
            _ => None,
        };
        let Some(family) = family else {
            return Err(self.unsupported(format!("model_type {}", json["model_type"])));
        };
        if let Value::Array(names) = &json["architectures"]
            && !names.iter().any(|name| name == family.architecture)
        {
            return Err(self.unsupported(format!("architectures {}", json["architectures"])));
        }
        Ok(family)
    }

    /// Refuses by name what would silently change the model if it were ignored.
    fn refuse(&self) -> Result<(), Error> {
        let json = self.json;
        if !json["hidden_act"].is_null() && json["hidden_act"] != "silu" {
            return Err(self.unsupported(format!("hidden_act {}", json["hidden_act"])));
        }
        if self.flag("mlp_bias")? == Some(true) {
            return Err(self.unsupported("mlp_bias true".into()));
        }
        if !json["num_local_experts"].is_null() {
            let experts = &json["num_local_experts"];
            return Err(self.unsupported(format!("num_local_experts {experts}")));
        }
        for partial in
            [&json["partial_rotary_factor"], &json["rope_parameters"]["partial_rotary_factor"]]
        {
            if partial.as_f64().is_some_and(|factor| factor != 1.0) {
                return Err(self.unsupported(format!("partial_rotary_factor {partial}")));
            }
        }
        Ok(())
    }

    /// `rope_scaling`, or transformers 5's `rope_parameters`, which every model has.
    fn rope_scaling(&self, max_position_embeddings: usize) -> Result<RopeScaling, Error> {
        let key =
            if self.json["rope_scaling"].is_null() { "rope_parameters" } else { "rope_scaling" };
        let rope = &self.json[key];
        let kind = if rope["rope_type"].is_null() { &rope["type"] } else { &rope["rope_type"] };
        let number = |name: &str| {
            let key = format!("{key}.{name}");
            self.float(&key, &rope[name])?.ok_or_else(|| self.error(&key, "is missing".into()))
        };
        match kind.as_str() {
            Some("default") => Ok(RopeScaling::None),
            Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: match &rope["original_max_position_embeddings"] {
                    Value::Null => max_position_embeddings,
                    value => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                        Some(n) if n > 0 => n,
                        _ => {
                            let key = format!("{key}.original_max_position_embeddings");
                            let problem = format!("is {value}, not a positive whole number");
                            return Err(self.error(&key, problem));
                        }
                    },
                },
            }),
            None if rope.is_null() || (kind.is_null() && rope["factor"].is_null()) => {
                Ok(RopeScaling::None)
            }
            _ => Err(self.unsupported(format!("{key} {rope}"))),
        }
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
