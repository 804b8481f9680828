//! The shape of a Llama-architecture model, from a config.json or a GGUF's metadata.

use std::path::Path;

use super::Error;

/// Llama hyperparameters, named as in config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
}

impl LlamaConfig {
    /// Checks what no tensor's shape can show: that heads divide, sizes are positive and small
    /// enough that no product of two overflows. `path` is for messages.
    ///
    /// Errors: [`Error::Key`] naming the first bad key.
    pub fn validate(&self, path: &Path) -> Result<(), Error> {
        let key = |key: &str, problem: String| {
            Err(Error::Key { path: path.into(), key: key.into(), problem })
        };
        for (name, value, limit) in [
            ("vocab_size", self.vocab_size, 1 << 26),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 24),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 14),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 14),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ] {
            if value == 0 || value > limit {
                return key(name, format!("is {value}, must be in 1 ..= {limit}"));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return key(
                "num_key_value_heads",
                format!(
                    "is {}, which does not divide {} attention heads",
                    self.num_key_value_heads, self.num_attention_heads
                ),
            );
        }
        if !self.head_dim.is_multiple_of(2) {
            return key("head_dim", format!("is {}, rope needs an even one", self.head_dim));
        }
        for (name, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)]
        {
            if !(value > 0.0 && value.is_finite()) {
                return key(name, format!("is {value}, must be a positive number"));
            }
        }
        Ok(())
    }
}

/// The seven adapted linears of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Linear {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Linear {
    /// In the order in which the forward pass meets them.
    pub const ALL: [Linear; 7] =
        [Linear::Q, Linear::K, Linear::V, Linear::O, Linear::Gate, Linear::Up, Linear::Down];

    /// The module's own name, as PEFT's `target_modules` spells it: `q_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Linear::Q => "q_proj",
            Linear::K => "k_proj",
            Linear::V => "v_proj",
            Linear::O => "o_proj",
            Linear::Gate => "gate_proj",
            Linear::Up => "up_proj",
            Linear::Down => "down_proj",
        }
    }

    /// The module's path in the model: `model.layers.3.self_attn.q_proj`.
    pub fn path(self, layer: usize) -> String {
        let part = match self {
            Linear::Q | Linear::K | Linear::V | Linear::O => "self_attn",
            Linear::Gate | Linear::Up | Linear::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }

    /// (out_features, in_features).
    pub fn shape(self, config: &LlamaConfig) -> (usize, usize) {
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Linear::Q => (q, hidden),
            Linear::K | Linear::V => (kv, hidden),
            Linear::O => (hidden, q),
            Linear::Gate | Linear::Up => (inner, hidden),
            Linear::Down => (hidden, inner),
        }
    }
}
