//! Model families: what each one does that Llama does not, one file each.
//!
//! Every family here is the Llama decoder (see `model::llama`) with a few differences; a family's file
//! names them and says where its configuration holds them. Nothing else in the code asks for a family.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;
mod smollm3;

use super::Error;
use super::hub::config::Keys;
use super::rope_scaling::RopeScaling;

/// A family, as configurations and files name it.
#[derive(Debug)]
pub struct Family {
    /// For people: `Qwen3`.
    pub name: &'static str,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// `architectures` in config.json.
    pub architecture: &'static str,
    /// `general.architecture` of a GGUF file. Mistral's files say `llama`.
    pub gguf: Option<&'static str>,
    /// Whether llama.cpp's converter permutes the rows of q and k (see `model::gguf`).
    pub gguf_permuted: bool,
    pub defaults: Defaults,
    /// Reads what differs from Llama in a config.json of so many layers.
    pub differences: fn(&Keys<'_>, usize) -> Result<Differences, Error>,
    /// What differs in a GGUF file of so many layers, besides what every GGUF names alike.
    pub gguf_differences: fn(usize) -> Differences,
}

/// What transformers takes for keys that config.json does not have.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    pub rope_theta: f64,
    pub max_position_embeddings: usize,
    pub tie_word_embeddings: bool,
    /// `None`: hidden_size / num_attention_heads.
    pub head_dim: Option<usize>,
    /// `None`: as many as attention heads.
    pub num_key_value_heads: Option<usize>,
}

/// Llama's.
const DEFAULTS: Defaults = Defaults {
    rope_theta: 10_000.0,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
    head_dim: None,
    num_key_value_heads: None,
};

/// What a model does that Llama does not. The default: nothing.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Differences {
    /// q, k and v add a bias.
    pub qkv_bias: bool,
    /// o adds one, too.
    pub o_bias: bool,
    /// Each head of q and of k passes an RMSNorm, before rope.
    pub qk_norm: bool,
    pub rope_scaling: RopeScaling,
    /// What each layer's attention does; a layer that is not in the list does as Llama's.
    pub layers: Vec<LayerKind>,
}

/// What the attention of one layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LayerKind {
    /// Whether q and k are rotated.
    pub rope: bool,
    /// A token sees so many latest tokens, itself included; `None`: all.
    pub sliding_window: Option<usize>,
}

impl LayerKind {
    /// Rope, and the whole document in sight.
    pub const LLAMA: LayerKind = LayerKind { rope: true, sliding_window: None };
}

impl Differences {
    /// What a layer's attention does.
    pub fn layer(&self, layer: usize) -> LayerKind {
        self.layers.get(layer).copied().unwrap_or(LayerKind::LLAMA)
    }
}

/// Every family that is supported.
pub const FAMILIES: [&Family; 5] =
    [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3, &smollm3::SMOLLM3];

/// The family of a config.json's `model_type`.
pub fn of_model_type(name: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.model_type == name)
}

/// The family of a GGUF's `general.architecture`.
pub fn of_gguf(name: &str) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| family.gguf == Some(name))
}

/// Their names, for messages: `Llama, Mistral, Qwen2, ...`.
pub fn names() -> String {
    FAMILIES.map(|family| family.name).join(", ")
}

/// One layer kind for each layer, from `window(layer)`.
pub(super) fn windows(layers: usize, window: impl Fn(usize) -> Option<usize>) -> Vec<LayerKind> {
    (0..layers).map(|i| LayerKind { rope: true, sliding_window: window(i) }).collect()
}

/// The sliding layers of Qwen2 and Qwen3: those from `max_window_layers` on, or those that `layer_types`
/// names, and only where `use_sliding_window` says so.
fn qwen_windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<LayerKind>, Error> {
    let window = match keys.flag("use_sliding_window")?.unwrap_or(false) {
        true => keys.size_or_null("sliding_window")?.unwrap_or(Some(4096)),
        false => None,
    };
    let first = keys.count("max_window_layers")?.unwrap_or(28);
    let types = keys.layer_types(layers)?;
    let sliding = |i: usize| types.as_ref().map_or(i >= first, |types| types[i]);
    match (window, &types) {
        (None, Some(types)) if types.contains(&true) => {
            Err(keys.error("layer_types", "has sliding layers, and there is no window".into()))
        }
        (None, _) => Ok(Vec::new()),
        (Some(_), _) => Ok(windows(layers, |i| window.filter(|_| sliding(i)))),
    }
}
