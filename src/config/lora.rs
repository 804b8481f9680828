//! The [lora] section and PEFT's configuration: from one to the other, and what is checked early.

use toml::{Table, Value};

use super::{ConfigError, Lora, Source};
use crate::adapter::{LoraConfig, TargetModules};
use crate::model::config::Linear;

/// Layers for which an expression is tried before the model is known.
const LAYERS: usize = 256;

impl Lora {
    /// The configuration of a fresh adapter. "all-linear" becomes the list that it stands for, so
    /// that every reader of the adapter understands it.
    pub fn config(&self) -> LoraConfig {
        let Lora { r, lora_alpha, use_rslora, lora_dropout, init_adapter: _, .. } = *self;
        let target_modules = match &self.target_modules {
            TargetModules::AllLinear => TargetModules::list(Linear::ALL.map(Linear::name)),
            named => named.clone(),
        };
        LoraConfig {
            r,
            lora_alpha,
            use_rslora,
            target_modules,
            exclude_modules: self.exclude_modules.clone(),
            layers_to_transform: self.layers_to_transform.clone(),
            layers_pattern: self.layers_pattern.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            lora_dropout,
        }
    }

    /// Takes the keys of an adapter that a run goes on from.
    pub fn take(&mut self, config: &LoraConfig) {
        let config = config.clone();
        self.r = config.r;
        self.lora_alpha = config.lora_alpha;
        self.use_rslora = config.use_rslora;
        self.target_modules = config.target_modules;
        self.exclude_modules = config.exclude_modules;
        self.layers_to_transform = config.layers_to_transform;
        self.layers_pattern = config.layers_pattern;
        self.rank_pattern = config.rank_pattern;
        self.alpha_pattern = config.alpha_pattern;
    }

    /// What of the section can be checked before the model is known.
    pub(super) fn check(&self, source: &Source) -> Result<(), ConfigError> {
        let config = self.config();
        config.check().and_then(|()| config.names_something(LAYERS)).map_err(|error| {
            let at = source.place(&format!("lora.{}", error.field()));
            ConfigError::Targets { error, at }
        })
    }
}

/// A module name that there is not is refused by itself: the list as a whole would not show it.
/// PEFT lets it pass, so that an adapter to go on from may have such.
pub(super) fn check_modules(lora: &Table, source: &Source) -> Result<(), ConfigError> {
    if lora.contains_key("init_adapter") {
        return Ok(());
    }
    for key in ["target_modules", "exclude_modules"] {
        let Some(Value::Array(names)) = lora.get(key) else { continue };
        let unknown = names.iter().filter_map(Value::as_str).find(|name| !could_end_a_path(name));
        if let Some(name) = unknown.map(str::to_string) {
            let at = source.place(&format!("lora.{key}"));
            return Err(ConfigError::Module { key, name, at });
        }
    }
    Ok(())
}

/// Whether a linear of some layer is named so, or ends so.
fn could_end_a_path(name: &str) -> bool {
    Linear::ALL.iter().any(|linear| {
        let path = linear.path(0);
        let mut parts = path.rsplit('.');
        name.rsplit('.').all(|part| match parts.next() {
            Some("0") => !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()),
            known => known == Some(part),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_linears_and_of_nothing() {
        for name in [
            "q_proj",
            "self_attn.q_proj",
            "7.self_attn.q_proj",
            "layers.31.mlp.down_proj",
            "model.layers.0.mlp.gate_proj",
        ] {
            assert!(could_end_a_path(name), "{name}");
        }
        for name in ["", "proj", "mlp.q_proj", "x.self_attn.q_proj", "a.model.layers.0.mlp.up_proj"]
        {
            assert!(!could_end_a_path(name), "{name}");
        }
    }
}
