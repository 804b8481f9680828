//! Mistral: a sliding window in every layer (Jiang et al. 2023, arXiv 2310.06825). v0.1 has 4096, later
//! ones write `sliding_window` null; a config.json without the key means 4096.

use super::{DEFAULTS, Defaults, Differences, Family, windows};

pub const MISTRAL: Family = Family {
    name: "Mistral",
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    gguf: None,
    gguf_permuted: true,
    defaults: Defaults {
        max_position_embeddings: 131_072,
        num_key_value_heads: Some(8),
        ..DEFAULTS
    },
    differences: |keys, layers| {
        let window = keys.size_or_null("sliding_window")?.unwrap_or(Some(4096));
        Ok(Differences { layers: windows(layers, |_| window), ..Differences::default() })
    },
    gguf_differences: |_| Differences::default(),
};
