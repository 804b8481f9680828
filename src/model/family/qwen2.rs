//! Qwen2 and Qwen2.5: q, k and v have a bias, o has none (arXiv 2407.10671); some layers may slide.

use super::{DEFAULTS, Defaults, Differences, Family, qwen_windows};

pub const QWEN2: Family = Family {
    name: "Qwen2",
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    gguf: Some("qwen2"),
    gguf_permuted: false,
    defaults: Defaults {
        max_position_embeddings: 32_768,
        num_key_value_heads: Some(32),
        ..DEFAULTS
    },
    differences: |keys, layers| {
        let layers = qwen_windows(keys, layers)?;
        Ok(Differences { qkv_bias: true, layers, ..Differences::default() })
    },
    gguf_differences: |_| Differences { qkv_bias: true, ..Differences::default() },
};
