//! PEFT's adapter_config.json: what of it is understood, what is refused by name, and how it is written.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::error::PeftError;
use super::lora::LoraConfig;
use super::names::Patterns;
use super::refused::{self, Refused};
use super::targets::TargetError;

/// Fields that say nothing about the adapter's values, whatever they hold.
const INFORMATION: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config", // these four are only read with their init_lora_weights
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size", // only read with use_qalora
    "revision",
    "runtime_config",
    "ensure_weight_tying", // neither embedding nor head is adapted
];

/// Fields that [`read`] reads.
const READ: [&str; 13] = [
    "peft_type",
    "task_type",
    "init_lora_weights",
    "r",
    "lora_alpha",
    "use_rslora",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

/// Ranks that are taken.
pub(crate) const RANKS: std::ops::RangeInclusive<usize> = 1..=1024;

/// A whole adapter_config.json.
pub(super) struct Read {
    pub config: LoraConfig,
    /// `base_model_name_or_path`.
    pub base_model: Option<String>,
}

/// The fields of a file, with what a message needs.
struct Fields<'a> {
    path: &'a Path,
    all: Map<String, Value>,
}

impl Fields<'_> {
    fn shown(&self, name: &str) -> String {
        self.all.get(name).map_or("missing".to_string(), short)
    }

    fn bad(&self, name: &str, expects: &'static str) -> PeftError {
        let (path, field, value) = (self.path.to_path_buf(), name.to_string(), self.shown(name));
        PeftError::Field { path, field, value, expects }
    }

    fn refused(&self, name: &str, what: &'static str, advice: &'static str) -> PeftError {
        let (path, field, value) = (self.path.to_path_buf(), name.to_string(), self.shown(name));
        PeftError::Unsupported { path, field, value, what, advice }
    }

    /// A field of any type; `None` where it is off.
    fn get<T: DeserializeOwned>(
        &self,
        name: &str,
        expects: &'static str,
    ) -> Result<Option<T>, PeftError> {
        match self.all.get(name) {
            None => Ok(None),
            Some(value) if is_off(value) => Ok(None),
            Some(value) => T::deserialize(value).map(Some).map_err(|_| self.bad(name, expects)),
        }
    }

    fn alpha(&self, name: &str, value: f64, expects: &'static str) -> Result<f64, PeftError> {
        let value = as_json_reads(value);
        if value.is_finite() && value > 0.0 { Ok(value) } else { Err(self.bad(name, expects)) }
    }

    /// What the file says that is no number or name: the method, the task, the initialisation,
    /// and every field that is refused while it is on.
    fn check_kind(&self) -> Result<(), PeftError> {
        match self.all.get("peft_type").and_then(Value::as_str) {
            Some("LORA") => {}
            Some(_) => {
                return Err(self.refused(
                    "peft_type",
                    "a PEFT method other than LORA",
                    "LoRA adapters are what dayrun trains and loads: peft_type \"LORA\"",
                ));
            }
            None => return Err(self.bad("peft_type", "\"LORA\"")),
        }
        match self.all.get("task_type") {
            None | Some(Value::Null) => {}
            Some(Value::String(task)) if task == "CAUSAL_LM" => {}
            Some(_) => {
                return Err(self.refused(
                    "task_type",
                    "a task other than CAUSAL_LM",
                    "dayrun trains and runs language models: task_type \"CAUSAL_LM\"",
                ));
            }
        }
        match self.all.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(kind))
                if ["gaussian", "eva", "orthogonal", "true"].contains(&kind.as_str()) => {}
            Some(kind) => {
                let kind = kind.as_str().unwrap_or_default();
                let Refused { field, what, advice } = refused::of_initialisation(kind);
                return Err(self.refused(field, what, advice));
            }
        }
        for (name, value) in &self.all {
            let known = |names: &[&str]| names.contains(&name.as_str());
            if is_off(value) || known(&READ) || known(&INFORMATION) {
                continue;
            }
            // A field that a later PEFT adds is harmless while it is off, and unknown when it is on.
            let (what, advice) = refused::find(name).map_or(
                ("a field that dayrun does not know", "leave it out if it changes no value"),
                |refused| (refused.what, refused.advice),
            );
            return Err(self.refused(name, what, advice));
        }
        Ok(())
    }
}

/// Understands an adapter_config.json by itself, and refuses by name what is not supported.
pub(super) fn read(text: &str, path: &Path) -> Result<Read, PeftError> {
    let all = serde_json::from_str(text)
        .map_err(|source| PeftError::Json { path: path.to_path_buf(), source })?;
    let fields = Fields { path, all };
    fields.check_kind()?;

    const RANK: &str = "an integer from 1 to 1024";
    const ALPHA: &str = "a number above 0";
    let r = fields.get("r", RANK)?.filter(|r| RANKS.contains(r));
    let r = r.ok_or_else(|| fields.bad("r", RANK))?;
    let alpha = fields.get("lora_alpha", ALPHA)?.ok_or_else(|| fields.bad("lora_alpha", ALPHA))?;
    let lora_alpha = fields.alpha("lora_alpha", alpha, ALPHA)?;

    const RANK_PATTERN: &str = "a table of expressions and integers from 1 to 1024";
    let rank_pattern: Patterns<usize> =
        fields.get("rank_pattern", RANK_PATTERN)?.unwrap_or_default();
    if rank_pattern.0.iter().any(|(_, r)| !RANKS.contains(r)) {
        return Err(fields.bad("rank_pattern", RANK_PATTERN));
    }
    const ALPHA_PATTERN: &str = "a table of expressions and numbers above 0";
    let mut alpha_pattern: Patterns<f64> =
        fields.get("alpha_pattern", ALPHA_PATTERN)?.unwrap_or_default();
    for (_, alpha) in &mut alpha_pattern.0 {
        *alpha = fields.alpha("alpha_pattern", *alpha, ALPHA_PATTERN)?;
    }

    const TARGETS: &str = "a list of module names, or a regular expression";
    const DROPOUT: &str = "a number from 0 to below 1";
    let lora_dropout = fields.get("lora_dropout", DROPOUT)?.map_or(0.0, as_json_reads);
    if !(0.0..1.0).contains(&lora_dropout) {
        return Err(fields.bad("lora_dropout", DROPOUT));
    }
    let config = LoraConfig {
        r,
        lora_alpha,
        use_rslora: fields.get("use_rslora", "true or false")?.unwrap_or(false),
        target_modules: fields
            .get("target_modules", TARGETS)?
            .ok_or_else(|| fields.bad("target_modules", TARGETS))?,
        exclude_modules: fields.get("exclude_modules", TARGETS)?,
        layers_to_transform: fields.get("layers_to_transform", "a layer's number, or a list")?,
        layers_pattern: fields.get("layers_pattern", "a text or a list of texts")?,
        rank_pattern,
        alpha_pattern,
        lora_dropout,
    };
    config.check().map_err(|source| target_error(path, source))?;
    let base_model = fields.all.get("base_model_name_or_path").and_then(Value::as_str);
    Ok(Read { config, base_model: base_model.filter(|name| !name.is_empty()).map(str::to_string) })
}

/// A mistake in the targets of the file at `path`.
pub(super) fn target_error(path: &Path, source: TargetError) -> PeftError {
    PeftError::Target { path: path.to_path_buf(), source }
}

/// The value that reading `value` from JSON gives, once more: without serde_json's slower way, a
/// number of 17 digits may come out one bit off. What is kept is a value that stays.
pub(super) fn as_json_reads(mut value: f64) -> f64 {
    for _ in 0..4 {
        let read = serde_json::to_string(&value).ok();
        match read.and_then(|text| serde_json::from_str::<f64>(&text).ok()) {
            Some(read) if read != value => value = read,
            _ => break,
        }
    }
    value
}

/// The values that PEFT writes for a feature that is not in use.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s == "none" || s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// A value for an error message, cut to a line.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// An alpha: PEFT's own field is an integer; a fraction is written as it is.
fn alpha(value: f64) -> Value {
    if value.fract() == 0.0 && value < 1e15 { json!(value as i64) } else { json!(value) }
}

/// The adapter_config.json of an adapter, as PEFT writes it.
pub(super) fn write(config: &LoraConfig, base_model: &str) -> String {
    let alphas = config.alpha_pattern.0.iter();
    let alpha_pattern: Map<String, Value> =
        alphas.map(|(pattern, value)| (pattern.clone(), alpha(*value))).collect();
    let value = json!({
        "alpha_pattern": alpha_pattern,
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": config.exclude_modules,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": config.layers_pattern,
        "layers_to_transform": config.layers_to_transform,
        "loftq_config": {},
        "lora_alpha": alpha(config.lora_alpha),
        "lora_bias": false,
        "lora_dropout": config.lora_dropout,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": config.rank_pattern,
        "revision": null,
        "target_modules": config.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    format!("{value:#}\n")
}
