//! The model card beside an adapter: README.md, with the front matter that the Hub reads.

use std::fmt::Write;

use serde_json::Value;

use super::lora::{Adapter, LoraConfig};
use super::names::{Names, OneOrMany, TargetModules};

/// What an adapter was trained on, for its configuration and README.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaseModel {
    /// Hub name or path, where PEFT will look for the base.
    pub name: String,
    /// Which bytes exactly: file names with their hashes, or one content hash.
    pub bytes: String,
    /// How they were held in training: `NF4, double quantised`.
    pub quantization: String,
    /// What was learned from, as the run file names it.
    pub data: Vec<String>,
}

/// The README.md of an adapter.
pub(super) fn readme(adapter: &Adapter, base: &BaseModel) -> String {
    let name = Value::from(base.name.as_str());
    let mut rows = String::new();
    for (what, value) in rows_of(adapter, base) {
        if !value.is_empty() {
            let _ = writeln!(rows, "| {what} | {} |", cell(&value));
        }
    }
    format!(
        "---\nbase_model: {name}\nlibrary_name: peft\npipeline_tag: text-generation\n\
         tags:\n- lora\n- dayrun\n---\n\n\
         # LoRA adapter for {title}\n\n\
         Trained by dayrun {version}. It holds the adapter alone, not the base model.\n\n\
         | | |\n| --- | --- |\n{rows}\n\
         With transformers and PEFT:\n\n\
         ```python\n\
         from peft import PeftModel\n\
         from transformers import AutoModelForCausalLM\n\n\
         base = AutoModelForCausalLM.from_pretrained({name})\n\
         model = PeftModel.from_pretrained(base, \"path/to/this/directory\")\n\
         ```\n",
        title = cell(&base.name),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn rows_of(adapter: &Adapter, base: &BaseModel) -> Vec<(&'static str, String)> {
    let config = &adapter.config;
    let scale = if config.use_rslora { "lora_alpha / sqrt(r)" } else { "lora_alpha / r" };
    vec![
        ("base model", base.name.clone()),
        ("trained on these bytes", base.bytes.clone()),
        ("held in training as", base.quantization.clone()),
        ("data", base.data.join(", ")),
        ("r, lora_alpha", format!("{}, {} (scale {scale})", config.r, config.lora_alpha)),
        ("rank_pattern", pairs(&config.rank_pattern.0)),
        ("alpha_pattern", pairs(&config.alpha_pattern.0)),
        ("target modules", targets(config)),
        (
            "lora_dropout",
            Some(config.lora_dropout).filter(|p| *p > 0.0).map_or(String::new(), |p| p.to_string()),
        ),
        ("parameters", format!("{} in {} modules", adapter.params.len(), adapter.modules.len())),
    ]
}

/// `target_modules`, and what takes away from them, in words.
fn targets(config: &LoraConfig) -> String {
    let names = |names: &Names| match names {
        Names::Pattern(pattern) => format!("`{pattern}`"),
        Names::List(names) => names.join(", "),
    };
    let mut text = match &config.target_modules {
        TargetModules::AllLinear => "all linear layers but the head".into(),
        TargetModules::Named(named) => names(named),
    };
    if let Some(layers) = &config.layers_to_transform {
        let layers: Vec<String> = layers.as_slice().iter().map(usize::to_string).collect();
        let _ = write!(text, "; in layers {}", layers.join(", "));
        if let Some(pattern) = &config.layers_pattern {
            let _ = write!(text, " of {}", OneOrMany::as_slice(pattern).join(", "));
        }
    }
    if let Some(exclude) = &config.exclude_modules {
        let _ = write!(text, "; but not {}", names(exclude));
    }
    text
}

fn pairs<T: std::fmt::Display>(pairs: &[(String, T)]) -> String {
    let one = |(pattern, value): &(String, T)| format!("`{pattern}`: {value}");
    pairs.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A text that stays inside of its cell of the table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}
