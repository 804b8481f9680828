//! The shape of a decoder, from a config.json or a GGUF's metadata.

use std::path::Path;

use super::Error;
use super::family::{Differences, LayerKind};
use super::rope_scaling::RopeScaling;

/// Llama hyperparameters, named as in config.json.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
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
    /// What the model does that Llama does not.
    pub differences: Differences,
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
        self.validate_differences(path)
    }

    fn validate_differences(&self, path: &Path) -> Result<(), Error> {
        let key = |key: &str, problem: String| {
            Err(Error::Key { path: path.into(), key: key.into(), problem })
        };
        let above = |x: f64, least: f64| x >= least && x.is_finite();
        match self.differences.rope_scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } if above(factor, 1.0) => {}
            RopeScaling::Linear { factor } => {
                return key("rope_scaling.factor", format!("is {factor}, must be at least 1"));
            }
            RopeScaling::Factors(ref factors) if factors.len() != self.head_dim / 2 => {
                let problem =
                    format!("has {} factors, for heads of {}", factors.len(), self.head_dim);
                return key("rope_freqs.weight", problem);
            }
            RopeScaling::Factors(ref factors) => {
                if let Some(x) = factors.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
                    return key("rope_freqs.weight", format!("has {x}, not a positive number"));
                }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, .. } => {
                if !above(factor, 1.0) {
                    return key("rope_scaling.factor", format!("is {factor}, must be at least 1"));
                }
                if !(low_freq_factor > 0.0
                    && high_freq_factor > low_freq_factor
                    && high_freq_factor.is_finite())
                {
                    let problem =
                        format!("is {high_freq_factor}, low_freq_factor is {low_freq_factor}");
                    return key("rope_scaling.high_freq_factor", problem);
                }
            }
        }
        Ok(())
    }

    /// What a layer's attention does. A window that no document is longer than is none.
    pub fn layer(&self, layer: usize) -> LayerKind {
        let kind = self.differences.layer(layer);
        let window = kind.sliding_window.filter(|&window| window < self.max_position_embeddings);
        LayerKind { sliding_window: window, ..kind }
    }

    /// Rope's angular velocities.
    pub fn rope_velocities(&self) -> Vec<f64> {
        self.differences.rope_scaling.velocities(self.head_dim, self.rope_theta)
    }

    /// Whether a linear adds a bias.
    pub fn has_bias(&self, linear: Linear) -> bool {
        match linear {
            Linear::Q | Linear::K | Linear::V => self.differences.qkv_bias,
            Linear::O => self.differences.o_bias,
            Linear::Gate | Linear::Up | Linear::Down => false,
        }
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
