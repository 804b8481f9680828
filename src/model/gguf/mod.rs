//! Base models from a single GGUF file.
//!
//! llama.cpp's converter permutes the rows of q and k for architecture `llama` (its rope turns
//! neighbouring pairs, Hugging Face's the two halves of a head), so they are put back on loading:
//! row `h·d + j·d/2 + i` of Hugging Face is row `h·d + 2i + j` of the file (`d` the head
//! dimension, `j` the half). Loaded as they are, everything runs and q_proj is garbage.

pub mod header;
mod rows;

use std::collections::HashSet;

use super::config::{Linear, LlamaConfig};
use super::weights::{Dense, LayerWeights, Weights};
use super::{Error, parts};
use crate::progress::Report;
pub use header::{Array, Gguf, TensorInfo, Value};

impl Gguf {
    fn key(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Key { path: self.path.clone(), key: key.into(), problem: problem.into() }
    }

    fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.path.clone(), what }
    }

    /// A count in the metadata, in `1 ..= 2^31`.
    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) if (1..=1 << 31).contains(n) => Ok(Some(*n as usize)),
            Some(Value::Array(a)) => Err(self
                .unsupported(format!("`{key}` with a value for each layer ({} of them)", a.len()))),
            Some(other) => Err(self.key(key, format!("is {other:?}, not a size"))),
        }
    }

    fn required(&self, key: &str) -> Result<usize, Error> {
        self.size(key)?.ok_or_else(|| self.key(key, "is missing"))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) if x.is_finite() && *x > 0.0 => Ok(Some(*x)),
            Some(other) => Err(self.key(key, format!("is {other:?}, not a positive number"))),
        }
    }

    /// The Llama configuration that the metadata describes.
    ///
    /// Errors: [`Error::Unsupported`] for another architecture, experts, rope scaling, a sliding
    /// window, a split file; [`Error::Key`] for a missing or impossible value.
    pub fn config(&self) -> Result<LlamaConfig, Error> {
        match self.metadata.get("general.architecture") {
            Some(Value::String(name)) if name == "llama" => {}
            Some(Value::String(name)) => {
                return Err(self.unsupported(format!("architecture \"{name}\"")));
            }
            _ => return Err(self.key("general.architecture", "is missing")),
        }
        self.refuse_extras()?;
        let hidden_size = self.required("llama.embedding_length")?;
        let heads = self.required("llama.attention.head_count")?;
        let rope = "llama.rope.dimension_count";
        let head_dim = match self.size("llama.attention.key_length")?.or(self.size(rope)?) {
            Some(head_dim) => head_dim,
            None => hidden_size / heads,
        };
        if let Some(dims) = self.size(rope)?.filter(|&dims| dims != head_dim) {
            return Err(self.unsupported(format!("rope over {dims} of {head_dim} dimensions")));
        }
        if let Some(n) = self.size("llama.attention.value_length")?.filter(|&n| n != head_dim) {
            return Err(self.unsupported(format!("a value head of {n} beside a key head")));
        }
        let embedding = self.tensor("token_embd.weight")?;
        let config = LlamaConfig {
            vocab_size: embedding.shape[0],
            hidden_size,
            intermediate_size: self.required("llama.feed_forward_length")?,
            num_hidden_layers: self.required("llama.block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: self.size("llama.attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: self
                .float("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| self.key("llama.attention.layer_norm_rms_epsilon", "is missing"))?,
            rope_theta: self.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            max_position_embeddings: self.required("llama.context_length")?,
            tie_word_embeddings: !self.tensors.contains_key("output.weight"),
        };
        config.validate(&self.path)?;
        Ok(config)
    }

    /// Refuses by name what would silently change the model if it were ignored.
    fn refuse_extras(&self) -> Result<(), Error> {
        for key in ["llama.expert_count", "llama.attention.sliding_window"] {
            if let Some(Value::Int(n)) = self.metadata.get(key).filter(|v| !is_zero(v)) {
                return Err(self.unsupported(format!("`{key}` {n}")));
            }
        }
        if let Some(n) = self.size("split.count")?.filter(|&n| n > 1) {
            return Err(self.unsupported(format!("a GGUF split into {n} files")));
        }
        match self.metadata.get("llama.rope.scaling.type") {
            None => {}
            Some(Value::String(kind)) if kind == "none" => {}
            Some(other) => return Err(self.unsupported(format!("rope scaling {other:?}"))),
        }
        for key in ["llama.rope.scale_linear", "llama.rope.scaling.factor"] {
            if let Some(factor) = self.metadata.get(key)
                && !matches!(factor, Value::Float(x) if *x == 1.0 || *x == 0.0)
            {
                return Err(self.unsupported(format!("`{key}` {factor:?}")));
            }
        }
        if self.tensors.contains_key("rope_freqs.weight") {
            return Err(self.unsupported("`rope_freqs.weight` (rope scaling)".into()));
        }
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.tensors
            .get(name)
            .ok_or_else(|| Error::MissingTensor { path: self.path.clone(), tensor: name.into() })
    }

    fn shaped(&self, name: &str, expected: &[usize]) -> Result<&TensorInfo, Error> {
        let tensor = self.tensor(name)?;
        if tensor.shape != expected {
            return Err(Error::Shape {
                path: self.path.clone(),
                tensor: name.into(),
                expected: expected.into(),
                found: tensor.shape.clone(),
            });
        }
        Ok(tensor)
    }

    /// Checks that every tensor of `config` is there in its shape, and that there is no other.
    pub fn check_tensors(&self, config: &LlamaConfig) -> Result<(), Error> {
        let mut known = HashSet::new();
        let mut check = |name: String, shape: &[usize]| {
            self.shaped(&name, shape)?;
            known.insert(name);
            Ok(())
        };
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        check("token_embd.weight".into(), &[vocab, hidden])?;
        check("output_norm.weight".into(), &[hidden])?;
        if !config.tie_word_embeddings {
            check("output.weight".into(), &[vocab, hidden])?;
        }
        for layer in 0..config.num_hidden_layers {
            for norm in [ATTN_NORM, FFN_NORM] {
                check(block_name(layer, norm), &[hidden])?;
            }
            for linear in Linear::ALL {
                let (rows, cols) = linear.shape(config);
                check(linear_name(layer, linear), &[rows, cols])?;
            }
        }
        match self.tensors.keys().filter(|name| !known.contains(*name)).min() {
            None => Ok(()),
            Some(name) => {
                Err(Error::UnexpectedTensor { path: self.path.clone(), tensor: name.clone() })
            }
        }
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<Dense, Error> {
        let tensor = self.tensor(name)?;
        parts::dense(&self.path, name, rows, cols, |range, out| {
            rows::decode(self, name, tensor, cols, range, out)
        })
    }
}

fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Int(0))
}

const ATTN_NORM: &str = "attn_norm";
const FFN_NORM: &str = "ffn_norm";

fn block_name(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

fn linear_name(layer: usize, linear: Linear) -> String {
    let part = match linear {
        Linear::Q => "attn_q",
        Linear::K => "attn_k",
        Linear::V => "attn_v",
        Linear::O => "attn_output",
        Linear::Gate => "ffn_gate",
        Linear::Up => "ffn_up",
        Linear::Down => "ffn_down",
    };
    block_name(layer, part)
}

/// Loads and quantises the model in `gguf`, whose `config` and tensors have been checked.
pub(super) fn load(
    gguf: &Gguf,
    config: &LlamaConfig,
    identity: String,
    report: Report,
) -> Result<Weights, Error> {
    let (vocab, hidden, head_dim) = (config.vocab_size, config.hidden_size, config.head_dim);
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(gguf.dense("output.weight", vocab, hidden)?),
    };
    let layers = parts::layers(config, "quantising", report, |layer, linear| {
        let (rows, cols) = linear.shape(config);
        let name = linear_name(layer, linear);
        let tensor = gguf.tensor(&name)?;
        let permuted = matches!(linear, Linear::Q | Linear::K);
        parts::quantised(&gguf.path, &name, rows, cols, |range, out| {
            if !permuted {
                return rows::decode(gguf, &name, tensor, cols, range, out);
            }
            for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                let from = unpermuted(row, head_dim);
                rows::decode(gguf, &name, tensor, cols, from..from + 1, out)?;
            }
            Ok(())
        })
    })?;
    let layers = layers
        .into_iter()
        .enumerate()
        .map(|(layer, linears)| {
            Ok(LayerWeights {
                input_layernorm: gguf.dense(&block_name(layer, ATTN_NORM), 1, hidden)?,
                post_attention_layernorm: gguf.dense(&block_name(layer, FFN_NORM), 1, hidden)?,
                linears,
            })
        })
        .collect::<Result<_, Error>>()?;
    Ok(Weights {
        embed_tokens: gguf.dense("token_embd.weight", vocab, hidden)?,
        layers,
        norm: gguf.dense("output_norm.weight", 1, hidden)?,
        lm_head,
        identity,
        config: config.clone(),
    })
}

/// Where row `row` of Hugging Face's q or k lies in the file.
fn unpermuted(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + half
}
