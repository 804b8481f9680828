//! The shape of a Llama-architecture model, from a config.json or a GGUF's metadata.

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
