//! PEFT's adapter_config.json: what of it is understood, and what is refused by name.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::error::PeftError;
use super::lora::{Adapter, LoraConfig};
use crate::model::config::{Linear, LlamaConfig};

/// Fields that say nothing about the adapter's values, whatever they hold.
const INFORMATION: [&str; 10] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "layers_pattern", // only read with layers_to_transform
    "loftq_config",   // only read with init_lora_weights = "loftq"
    "megatron_core",
    "peft_version",
    "qalora_group_size", // only read with use_qalora
    "revision",
    "lora_dropout",
];

/// What a known field does when it is on, for the refusal.
const UNSUPPORTED: [(&str, &str); 16] = [
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("bias", "a trained bias"),
    ("lora_bias", "a bias on B"),
    ("modules_to_save", "training whole modules beside the adapter"),
    ("rank_pattern", "another r for some modules"),
    ("alpha_pattern", "another lora_alpha for some modules"),
    ("layers_to_transform", "adapting some layers only"),
    ("layer_replication", "layer replication"),
    ("exclude_modules", "excluding modules"),
    ("fan_in_fan_out", "transposed weights"),
    ("trainable_token_indices", "trainable tokens"),
    ("target_parameters", "adapting bare parameters"),
    ("megatron_config", "Megatron"),
    ("corda_config", "CorDA"),
    ("alora_invocation_tokens", "activated LoRA"),
];

/// A configuration on its own: everything that can be checked without a model.
pub(super) struct Fields {
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    targets: Targets,
    lora_dropout: f64,
    /// `target_modules` as it stands in the file, for an error message.
    targets_text: String,
}

/// PEFT's `target_modules`.
enum Targets {
    AllLinear,
    /// A string is matched against the whole path (re.fullmatch).
    Pattern(regex::Regex),
    /// Names, or ends of paths.
    Names(Vec<String>),
}

impl Targets {
    /// Whether the module at `path` is named.
    fn names(&self, path: &str) -> bool {
        match self {
            Targets::AllLinear => true,
            Targets::Pattern(regex) => regex.is_match(path),
            Targets::Names(names) => names.iter().any(|name| {
                let rest = path.strip_suffix(name.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }),
        }
    }
}

/// A configuration checked against a model: the modules it names, in the order of the model.
pub(super) struct Read {
    pub config: LoraConfig,
    pub modules: Vec<(usize, Linear)>,
}

/// Understands an adapter_config.json for `model`.
pub(super) fn read(text: &str, path: &Path, model: &LlamaConfig) -> Result<Read, PeftError> {
    let Fields { r, lora_alpha, use_rslora, targets, lora_dropout, targets_text } =
        fields(text, path)?;
    if lora_dropout != 0.0 {
        tracing::warn!(
            "{}: made with lora_dropout = {lora_dropout}; dropout is off here, in training too",
            path.display(),
        );
    }
    let modules: Vec<(usize, Linear)> = (0..model.num_hidden_layers)
        .flat_map(|layer| Linear::ALL.map(|linear| (layer, linear)))
        .filter(|(layer, linear)| targets.names(&linear.path(*layer)))
        .collect();
    if modules.is_empty() {
        return Err(PeftError::NoModule { path: path.to_path_buf(), value: targets_text });
    }
    let target_modules = names(&modules, model.num_hidden_layers);
    Ok(Read { config: LoraConfig { r, lora_alpha, use_rslora, target_modules }, modules })
}

/// Understands an adapter_config.json by itself, and refuses by name what is not supported.
pub(super) fn fields(text: &str, path: &Path) -> Result<Fields, PeftError> {
    let fields: Map<String, Value> = serde_json::from_str(text)
        .map_err(|source| PeftError::Json { path: path.to_path_buf(), source })?;
    let field = |name: &str, expects| PeftError::Field {
        path: path.to_path_buf(),
        field: name.to_string(),
        value: fields.get(name).map_or("missing".to_string(), short),
        expects,
    };
    let unsupported = |name: &str, what| PeftError::Unsupported {
        path: path.to_path_buf(),
        field: name.to_string(),
        value: fields.get(name).map_or("missing".to_string(), short),
        what,
    };

    match fields.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        Some(_) => return Err(unsupported("peft_type", "a PEFT method other than LORA")),
        None => return Err(field("peft_type", "\"LORA\"")),
    }
    match fields.get("task_type") {
        None | Some(Value::Null) => {}
        Some(Value::String(task)) if task == "CAUSAL_LM" => {}
        Some(_) => return Err(unsupported("task_type", "a task other than CAUSAL_LM")),
    }
    // These change the base's weights too, so that the adapter does not fit the plain base.
    match fields.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => {}
        Some(Value::String(s)) if s == "gaussian" || s == "eva" || s == "orthogonal" => {}
        Some(_) => {
            return Err(unsupported(
                "init_lora_weights",
                "an initialisation that changes the base",
            ));
        }
    }
    let known = ["peft_type", "task_type", "init_lora_weights", "eva_config"];
    let read = ["r", "lora_alpha", "use_rslora", "target_modules"];
    for (name, value) in &fields {
        if known.contains(&name.as_str())
            || read.contains(&name.as_str())
            || INFORMATION.contains(&name.as_str())
            || is_off(value)
        {
            continue;
        }
        // A field that a later PEFT adds is harmless while it is off, and unknown when it is on.
        let what = UNSUPPORTED.iter().find(|(n, _)| n == name).map(|(_, what)| *what);
        return Err(unsupported(name, what.unwrap_or("this field")));
    }
    let r = fields.get("r").and_then(Value::as_u64).filter(|r| (1..=1024).contains(r));
    let r = r.ok_or_else(|| field("r", "an integer from 1 to 1024"))? as usize;
    let alpha = fields.get("lora_alpha").and_then(Value::as_f64);
    let lora_alpha = alpha
        .filter(|a| a.is_finite() && *a > 0.0)
        .ok_or_else(|| field("lora_alpha", "a number above 0"))?;
    let use_rslora = match fields.get("use_rslora") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(_) => return Err(field("use_rslora", "true or false")),
    };

    let bad_targets = || field("target_modules", "a list of module names, or a regular expression");
    let targets = match fields.get("target_modules") {
        Some(Value::String(name)) if name == "all-linear" => Targets::AllLinear,
        Some(Value::String(pattern)) => Targets::Pattern(
            regex::Regex::new(&format!("^(?:{pattern})$")).map_err(|_| bad_targets())?,
        ),
        Some(Value::Array(names)) => {
            let names: Option<Vec<String>> =
                names.iter().map(|name| name.as_str().map(str::to_string)).collect();
            Targets::Names(names.ok_or_else(bad_targets)?)
        }
        _ => return Err(bad_targets()),
    };
    // "all-linear" leaves the head out, in PEFT too.
    let outside = ["lm_head", "model.embed_tokens"];
    if !matches!(targets, Targets::AllLinear) && outside.iter().any(|path| targets.names(path)) {
        return Err(unsupported("target_modules", "adapting the head or the embedding"));
    }
    let lora_dropout = fields.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0);
    let targets_text = short(&fields["target_modules"]);
    Ok(Fields { r, lora_alpha, use_rslora, targets, lora_dropout, targets_text })
}

/// The shortest list that names exactly these modules: plain names when every layer has the
/// same ones, whole paths otherwise.
fn names(modules: &[(usize, Linear)], layers: usize) -> Vec<String> {
    let plain: Vec<Linear> =
        Linear::ALL.into_iter().filter(|l| modules.iter().any(|(_, m)| m == l)).collect();
    if plain.len() * layers == modules.len() {
        plain.iter().map(|linear| linear.name().to_string()).collect()
    } else {
        modules.iter().map(|(layer, linear)| linear.path(*layer)).collect()
    }
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

/// The adapter_config.json of an adapter, as PEFT writes it.
pub(super) fn write(adapter: &Adapter, base_model: &str) -> String {
    let config = &adapter.config;
    // PEFT's own field is an integer; a fraction is written as it is.
    let alpha = if config.lora_alpha.fract() == 0.0 && config.lora_alpha < 1e15 {
        json!(config.lora_alpha as i64)
    } else {
        json!(config.lora_alpha)
    };
    let value = json!({
        "alpha_pattern": {},
        "auto_mapping": null,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "loftq_config": {},
        "lora_alpha": alpha,
        "lora_bias": false,
        "lora_dropout": 0.0,
        "megatron_config": null,
        "megatron_core": "megatron.core",
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": {},
        "revision": null,
        "target_modules": config.target_modules,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    format!("{value:#}\n")
}
