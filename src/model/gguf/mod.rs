//! Base models from a single GGUF file.
//!
//! llama.cpp's converter permutes the rows of q and k for some families (there its rope turns
//! neighbouring pairs, Hugging Face's the two halves of a head), so they are put back on loading:
//! row `h·d + j·d/2 + i` of Hugging Face is row `h·d + 2i + j` of the file (`d` the head
//! dimension, `j` the half). Loaded as they are, everything runs and q_proj is garbage.

pub mod header;
mod rows;

use std::collections::HashSet;

use super::config::{Linear, LlamaConfig};
use super::family::{self, Differences, Family};
use super::parts::Vector;
use super::rope_scaling::RopeScaling;
use super::weights::{Dense, Weights};
use super::{Error, Linears, parts};
use crate::progress::Report;
pub use header::{Array, Gguf, TensorInfo, Value};

impl Gguf {
    fn key(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Key { path: self.path.clone(), key: key.into(), problem: problem.into() }
    }

    fn unsupported(&self, what: String) -> Error {
        Error::Unsupported { path: self.path.clone(), what }
    }

    /// A size in the metadata, in `1 ..= 2^31`.
    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.count(key)? {
            Some(0) => Err(self.key(key, "is 0, not a size")),
            size => Ok(size),
        }
    }

    /// A count in the metadata, in `0 ..= 2^31`.
    fn count(&self, key: &str) -> Result<Option<usize>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(n)) if (0..=1 << 31).contains(n) => Ok(Some(*n as usize)),
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

    /// The family that `general.architecture` names.
    fn family(&self) -> Result<&'static Family, Error> {
        match self.metadata.get("general.architecture") {
            Some(Value::String(name)) => family::of_gguf(name)
                .ok_or_else(|| self.unsupported(format!("architecture \"{name}\""))),
            _ => Err(self.key("general.architecture", "is missing")),
        }
    }

    /// The configuration that the metadata describes.
    ///
    /// Errors: [`Error::Unsupported`] for another architecture, experts, a kind of rope scaling, a split
    /// file; [`Error::Key`] for a missing or impossible value.
    pub fn config(&self) -> Result<LlamaConfig, Error> {
        let family = self.family()?;
        let named = |key: &str| format!("{}.{key}", family.gguf.unwrap_or_default());
        let size = |key: &str| self.size(&named(key));
        let required = |key: &str| self.required(&named(key));
        self.refuse_extras(&named)?;
        let hidden_size = required("embedding_length")?;
        let heads = required("attention.head_count")?;
        let rope_dims = size("rope.dimension_count")?;
        let head_dim = size("attention.key_length")?.or(rope_dims).unwrap_or(hidden_size / heads);
        if let Some(dims) = rope_dims.filter(|&dims| dims != head_dim) {
            return Err(self.unsupported(format!("rope over {dims} of {head_dim} dimensions")));
        }
        if let Some(n) = size("attention.value_length")?.filter(|&n| n != head_dim) {
            return Err(self.unsupported(format!("a value head of {n} beside a key head")));
        }
        let embedding = self.tensor("token_embd.weight")?;
        let epsilon = named("attention.layer_norm_rms_epsilon");
        let layers = required("block_count")?;
        let config = LlamaConfig {
            vocab_size: embedding.shape[0],
            hidden_size,
            intermediate_size: required("feed_forward_length")?,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: self.float(&epsilon)?.ok_or_else(|| self.key(&epsilon, "is missing"))?,
            rope_theta: self.float(&named("rope.freq_base"))?.unwrap_or(10_000.0),
            max_position_embeddings: required("context_length")?,
            tie_word_embeddings: !self.tensors.contains_key("output.weight"),
            differences: Differences::default(),
        };
        config.validate(&self.path)?;
        let own = (family.gguf_differences)(layers);
        // Llama with `attention_bias`.
        let has = |part: &str| self.tensors.contains_key(&format!("blk.0.{part}.bias"));
        let mut differences = Differences {
            qkv_bias: own.qkv_bias || has("attn_q"),
            o_bias: own.o_bias || has("attn_output"),
            rope_scaling: self.rope_scaling(&named, head_dim)?,
            ..own
        };
        if let Some(window) = self.count(&named("attention.sliding_window"))?.filter(|&n| n > 0) {
            // Of the other families some layers slide, and no file says which.
            if family.model_type != "llama" {
                let key = named("attention.sliding_window");
                return Err(self.unsupported(format!("`{key}` {window} of a {}", family.name)));
            }
            differences.layers = family::windows(layers, |_| Some(window));
        }
        let config = LlamaConfig { differences, ..config };
        config.validate(&self.path)?;
        Ok(config)
    }

    fn rope_scaling(
        &self,
        named: &dyn Fn(&str) -> String,
        head_dim: usize,
    ) -> Result<RopeScaling, Error> {
        let (kind, factor) = (named("rope.scaling.type"), named("rope.scaling.factor"));
        // Files from before `rope.scaling.type` have the factor of linear scaling alone.
        let old = named("rope.scale_linear");
        let factor = match self.metadata.get(&kind) {
            Some(Value::String(kind)) if kind == "linear" => match self.factor(&factor)? {
                Some(factor) => Some(factor),
                None => return Err(self.key(&factor, "is missing")),
            },
            Some(Value::String(kind)) if kind == "none" => None,
            Some(other) => return Err(self.unsupported(format!("rope scaling {other:?}"))),
            None => self.factor(&factor)?.or(self.factor(&old)?).filter(|&x| x != 0.0 && x != 1.0),
        };
        match (self.tensors.get(ROPE_FREQS), factor) {
            (None, None) => Ok(RopeScaling::None),
            (None, Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some(_), Some(factor)) => {
                let what = format!("`{ROPE_FREQS}` beside linear rope scaling by {factor}");
                Err(self.unsupported(what))
            }
            (Some(tensor), None) => {
                self.shaped(ROPE_FREQS, &[head_dim / 2])?;
                let mut factors = vec![0.0; head_dim / 2];
                rows::decode(self, ROPE_FREQS, tensor, head_dim / 2, 0..1, &mut factors)?;
                Ok(RopeScaling::Factors(factors))
            }
        }
    }

    /// A factor of rope scaling, written as a number of either kind.
    fn factor(&self, key: &str) -> Result<Option<f64>, Error> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Int(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(self.key(key, format!("is {other:?}, not a number"))),
        }
    }

    /// Refuses by name what would silently change the model if it were ignored.
    fn refuse_extras(&self, named: &dyn Fn(&str) -> String) -> Result<(), Error> {
        let experts = named("expert_count");
        if let Some(Value::Int(n)) = self.metadata.get(&experts).filter(|v| !is_zero(v)) {
            return Err(self.unsupported(format!("`{experts}` {n}")));
        }
        if let Some(n) = self.size("split.count")?.filter(|&n| n > 1) {
            return Err(self.unsupported(format!("a GGUF split into {n} files")));
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
            for vector in Vector::of(config) {
                check(vector_name(layer, vector), &[vector.len(config)])?;
            }
            for linear in Linear::ALL {
                let (rows, cols) = linear.shape(config);
                check(linear_name(layer, linear), &[rows, cols])?;
            }
        }
        let unknown = |name: &&String| !known.contains(*name) && *name != ROPE_FREQS;
        match self.tensors.keys().filter(unknown).min() {
            None => Ok(()),
            Some(name) => {
                Err(Error::UnexpectedTensor { path: self.path.clone(), tensor: name.clone() })
            }
        }
    }

    /// Whether the rows of a linear are in llama.cpp's order.
    fn is_permuted(&self, linear: Linear) -> Result<bool, Error> {
        Ok(matches!(linear, Linear::Q | Linear::K) && self.family()?.gguf_permuted)
    }

    /// A vector of a layer; q's and k's biases lie in the order of their rows.
    fn vector(
        &self,
        layer: usize,
        vector: Vector,
        len: usize,
        head_dim: usize,
    ) -> Result<Dense, Error> {
        let name = vector_name(layer, vector);
        let permuted = match vector {
            Vector::Bias(linear) => self.is_permuted(linear)?,
            _ => false,
        };
        if !permuted {
            return self.dense(&name, 1, len);
        }
        let tensor = self.tensor(&name)?;
        parts::dense(&self.path, &name, 1, len, |_, out| {
            let mut file = vec![0.0; len];
            rows::decode(self, &name, tensor, len, 0..1, &mut file)?;
            for (row, out) in out.iter_mut().enumerate() {
                *out = file[unpermuted(row, head_dim)];
            }
            Ok(())
        })
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

/// Factors by which rope's velocities are divided.
const ROPE_FREQS: &str = "rope_freqs.weight";

fn linear_part(linear: Linear) -> &'static str {
    match linear {
        Linear::Q => "attn_q",
        Linear::K => "attn_k",
        Linear::V => "attn_v",
        Linear::O => "attn_output",
        Linear::Gate => "ffn_gate",
        Linear::Up => "ffn_up",
        Linear::Down => "ffn_down",
    }
}

fn linear_name(layer: usize, linear: Linear) -> String {
    format!("blk.{layer}.{}.weight", linear_part(linear))
}

fn vector_name(layer: usize, vector: Vector) -> String {
    let part = match vector {
        Vector::InputLayernorm => "attn_norm.weight",
        Vector::PostAttentionLayernorm => "ffn_norm.weight",
        Vector::QNorm => "attn_q_norm.weight",
        Vector::KNorm => "attn_k_norm.weight",
        Vector::Bias(linear) => return format!("blk.{layer}.{}.bias", linear_part(linear)),
    };
    format!("blk.{layer}.{part}")
}

/// Loads the model in `gguf`, whose `config` and tensors have been checked, its linears held as asked for.
pub(super) fn load(
    gguf: &Gguf,
    config: &LlamaConfig,
    held: Linears,
    identity: String,
    report: Report,
) -> Result<Weights, Error> {
    let (vocab, hidden, head_dim) = (config.vocab_size, config.hidden_size, config.head_dim);
    let lm_head = match config.tie_word_embeddings {
        true => None,
        false => Some(gguf.dense("output.weight", vocab, hidden)?),
    };
    let stage = if held == Linears::Nf4 { "quantising" } else { "loading" };
    let layers = parts::layers(config, stage, report, |layer, linear| {
        let shape @ (_, cols) = linear.shape(config);
        let name = linear_name(layer, linear);
        let tensor = gguf.tensor(&name)?;
        let permuted = gguf.is_permuted(linear)?;
        let matrix = parts::linear(&gguf.path, &name, shape, held, |range, out| {
            if !permuted {
                return rows::decode(gguf, &name, tensor, cols, range, out);
            }
            for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                let from = unpermuted(row, head_dim);
                rows::decode(gguf, &name, tensor, cols, from..from + 1, out)?;
            }
            Ok(())
        });
        tensor.data.release();
        matrix
    })?;
    let layers = layers
        .into_iter()
        .enumerate()
        .map(|(layer, linears)| {
            parts::layer(config, linears, |vector, len| gguf.vector(layer, vector, len, head_dim))
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
