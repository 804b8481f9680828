//! SmolLM3: every fourth layer leaves q and k without rope ("NoPE", arXiv 2501.18795). In its
//! `no_rope_layers` a 1 means that rope IS used, a 0 that it is not.

use super::{DEFAULTS, Defaults, Differences, Family, LayerKind};

/// A layer without rope every so many.
const INTERVAL: usize = 4;

pub const SMOLLM3: Family = Family {
    name: "SmolLM3",
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    gguf: Some("smollm3"),
    gguf_permuted: true,
    defaults: Defaults {
        rope_theta: 2_000_000.0,
        max_position_embeddings: 32_768,
        tie_word_embeddings: true,
        num_key_value_heads: Some(4),
        ..DEFAULTS
    },
    differences: |keys, layers| {
        let bias = keys.flag("attention_bias")?.unwrap_or(false);
        let interval = keys.size("no_rope_layer_interval")?.unwrap_or(INTERVAL);
        let rope = match keys.flags("no_rope_layers", layers)? {
            Some(list) => list,
            None => every(interval, layers),
        };
        // `use_sliding_window` alone decides which layers slide: those without rope.
        let window = match keys.flag("use_sliding_window")?.unwrap_or(false) {
            true => keys.size_or_null("sliding_window")?.flatten(),
            false => None,
        };
        let types = keys.layer_types(layers)?;
        let kind = |(i, rope): (usize, bool)| {
            let sliding = types.as_ref().map_or(!rope, |types| types[i]);
            LayerKind { rope, sliding_window: window.filter(|_| sliding) }
        };
        let layers = rope.into_iter().enumerate().map(kind).collect();
        Ok(Differences { qkv_bias: bias, o_bias: bias, layers, ..Differences::default() })
    },
    gguf_differences: |layers| {
        let rope = every(INTERVAL, layers).into_iter();
        let kinds = rope.map(|rope| LayerKind { rope, sliding_window: None });
        Differences { layers: kinds.collect(), ..Differences::default() }
    },
};

/// Rope in all but every `interval`-th layer.
fn every(interval: usize, layers: usize) -> Vec<bool> {
    (1..=layers).map(|i| !i.is_multiple_of(interval)).collect()
}
