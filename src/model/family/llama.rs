//! Llama 2, Llama 3.x and SmolLM2: the decoder itself. Llama 3.1 and later stretch rope (`rope_scaling`,
//! which every family may have); `attention_bias` gives all four projections of attention a bias.

use super::{DEFAULTS, Differences, Family};

pub const LLAMA: Family = Family {
    name: "Llama",
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    gguf: Some("llama"),
    gguf_permuted: true,
    defaults: DEFAULTS,
    differences: |keys, _| {
        if let Some(Some(window)) = keys.size_or_null("sliding_window")? {
            return Err(keys.unsupported(format!("sliding_window {window} of a Llama")));
        }
        let bias = keys.flag("attention_bias")?.unwrap_or(false);
        Ok(Differences { qkv_bias: bias, o_bias: bias, ..Differences::default() })
    },
    gguf_differences: |_| Differences::default(),
};
