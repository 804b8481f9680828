//! Qwen3: an RMSNorm over each head of q and k takes the place of Qwen2's biases (arXiv 2505.09388);
//! heads of 128 whatever the hidden size.

use super::{DEFAULTS, Defaults, Differences, Family, qwen_windows};

pub const QWEN3: Family = Family {
    name: "Qwen3",
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    gguf: Some("qwen3"),
    gguf_permuted: false,
    defaults: Defaults {
        max_position_embeddings: 32_768,
        head_dim: Some(128),
        num_key_value_heads: Some(32),
        ..DEFAULTS
    },
    differences: |keys, layers| {
        let bias = keys.flag("attention_bias")?.unwrap_or(false);
        let layers = qwen_windows(keys, layers)?;
        let bias = Differences { qkv_bias: bias, o_bias: bias, ..Differences::default() };
        Ok(Differences { qk_norm: true, layers, ..bias })
    },
    gguf_differences: |_| Differences { qk_norm: true, ..Differences::default() },
};
