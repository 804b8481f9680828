//! Base models from a Hub directory: config.json and safetensors, in 16 or 32 bits or in
//! bitsandbytes' NF4.

pub mod config;
pub mod shards;

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use super::config::{Linear, LlamaConfig};
use super::parts::Vector;
use super::weights::{Dense, Matrix, Weights};
use super::{Error, Linears, parts};
use crate::device::bytes::Bytes;
use crate::progress::Report;
use crate::quant::bnb::{self, RawTensor};
use config::Storage;
use shards::Shards;

/// An opened directory whose configuration and tensor shapes have been checked.
pub struct Checkpoint {
    pub config: LlamaConfig,
    pub storage: Storage,
    /// config.json, which with the shards makes up the model's content.
    pub config_file: (PathBuf, Bytes),
    pub shards: Shards,
}

impl Checkpoint {
    /// Opens `dir`. No tensor is read.
    ///
    /// Errors: those of [`config::read`] first, then of [`Shards::open`], then missing, wrongly
    /// shaped or typed and unexpected tensors.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let config_path = dir.join("config.json");
        let (config, storage) = config::read(&config_path)?;
        let bytes = Bytes::map(&config_path).map_err(|source| Error::Io {
            doing: "reading",
            path: config_path.clone(),
            source,
        })?;
        let shards = Shards::open(dir)?;
        let checkpoint = Self { config, storage, config_file: (config_path, bytes), shards };
        checkpoint.check_tensors()?;
        Ok(checkpoint)
    }

    fn check_tensors(&self) -> Result<(), Error> {
        let mut known = HashSet::new();
        let (vocab, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let mut floats =
            vec![(EMBED.to_string(), vec![vocab, hidden]), (NORM.to_string(), vec![hidden])];
        if !self.config.tie_word_embeddings {
            floats.push((HEAD.to_string(), vec![vocab, hidden]));
        }
        for layer in 0..self.config.num_hidden_layers {
            for vector in Vector::of(&self.config) {
                floats.push((vector_name(layer, vector), vec![vector.len(&self.config)]));
            }
            for linear in Linear::ALL {
                let (rows, cols) = linear.shape(&self.config);
                let name = linear_name(layer, linear);
                if self.storage == Storage::Float {
                    floats.push((name, vec![rows, cols]));
                    continue;
                }
                let tensor = self.shards.tensor(&name)?;
                if self.is_skipped(&name, tensor) {
                    floats.push((name, vec![rows, cols]));
                    continue;
                }
                known.extend(bnb::COMPANIONS.map(|suffix| format!("{name}.{suffix}")));
                known.insert(name);
            }
        }
        for (name, shape) in floats {
            self.check_float(&name, &shape)?;
            known.insert(name);
        }
        let ignored = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq") // recomputed; old checkpoints hold it
                || (name == HEAD && self.config.tie_word_embeddings) // a copy of the embedding
        };
        match self.shards.names().find(|name| !known.contains(*name) && !ignored(name)) {
            None => Ok(()),
            Some(name) => Err(Error::UnexpectedTensor {
                path: self.shards.path(name).into(),
                tensor: name.into(),
            }),
        }
    }

    /// Whether a linear was left in 16 (or 32) bits beside 4-bit ones, as one of the modules of
    /// `llm_int8_skip_modules`. The file tells: only transformers can match the names in that list. 4-bit
    /// codes may be labelled with a float type, but they have a state.
    fn is_skipped(&self, name: &str, tensor: &RawTensor) -> bool {
        let state = |kind: &str| self.shards.get(&format!("{name}.{kind}")).is_some();
        width(tensor.dtype).is_some() && !bnb::STATES.into_iter().any(state)
    }

    fn check_float(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        let tensor = self.shards.tensor(name)?;
        let (path, name) = (self.shards.path(name).to_path_buf(), name.to_string());
        if width(tensor.dtype).is_none() {
            let found = format!("{:?}", tensor.dtype);
            return Err(Error::Dtype { path, tensor: name, found, expected: "F32, F16 or BF16" });
        }
        if tensor.shape != shape {
            return Err(Error::Shape {
                path,
                tensor: name,
                expected: shape.into(),
                found: tensor.shape.clone(),
            });
        }
        Ok(())
    }

    fn dense(&self, name: &str, rows: usize, cols: usize) -> Result<Dense, Error> {
        let tensor = self.shards.tensor(name)?;
        let path = self.shards.path(name);
        if tensor.dtype == Dtype::BF16 && parts::can_map::<bf16>(&tensor.data) {
            return parts::mapped(path, name, rows, cols, &tensor.data);
        }
        parts::dense(path, name, rows, cols, |range, out| {
            widen(tensor, cols, range, out);
            Ok(())
        })
    }

    /// The weight of a linear. Without quantising, bytes that the ops can multiply are used where they lie.
    fn linear(&self, name: &str, rows: usize, cols: usize, held: Linears) -> Result<Matrix, Error> {
        let (path, tensor) = (self.shards.path(name), self.shards.tensor(name)?);
        match (held, tensor.dtype) {
            (Linears::Bf16 | Linears::F32, Dtype::BF16) => {
                self.dense(name, rows, cols).map(Matrix::Bf16)
            }
            (Linears::F32, Dtype::F32) if parts::can_map::<f32>(&tensor.data) => {
                parts::mapped(path, name, rows, cols, &tensor.data).map(Matrix::F32)
            }
            _ => {
                let matrix = parts::linear(path, name, (rows, cols), held, |range, out| {
                    widen(tensor, cols, range, out);
                    Ok(())
                });
                tensor.data.release();
                matrix
            }
        }
    }

    /// A linear that bitsandbytes has quantised, or was told to keep as it is.
    fn quantised(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let (path, tensor) = (self.shards.path(name), self.shards.tensor(name)?);
        if self.is_skipped(name, tensor) {
            return self.dense(name, rows, cols).map(Matrix::Bf16);
        }
        let companion = |suffix: &str| self.shards.get(&format!("{name}.{suffix}")).cloned();
        let matrix = bnb::read(rows, cols, tensor, companion);
        matrix.map(Matrix::Nf4).map_err(parts::in_tensor(path, name))
    }

    /// Reads the model, its linears held as asked for.
    ///
    /// Errors: [`Error::Unsupported`] where they are in 4 bits already and are to be held in more.
    pub(super) fn load(
        &self,
        held: Linears,
        identity: String,
        report: Report,
    ) -> Result<Weights, Error> {
        let config = &self.config;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        if self.storage == Storage::Bitsandbytes4bit && held != Linears::Nf4 {
            return Err(Error::Quantised { path: self.config_file.0.clone() });
        }
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(self.dense(HEAD, vocab, hidden)?),
        };
        let stage = match (self.storage, held) {
            (Storage::Float, Linears::Nf4) => "quantising",
            _ => "loading",
        };
        let linears = parts::layers(config, stage, report, |layer, linear| {
            let (rows, cols) = linear.shape(config);
            let name = linear_name(layer, linear);
            match self.storage {
                Storage::Float => self.linear(&name, rows, cols, held),
                Storage::Bitsandbytes4bit => self.quantised(&name, rows, cols),
            }
        })?;
        let layer = |(layer, linears)| {
            parts::layer(config, linears, |vector, len| {
                self.dense(&vector_name(layer, vector), 1, len)
            })
        };
        Ok(Weights {
            embed_tokens: self.dense(EMBED, vocab, hidden)?,
            layers: linears.into_iter().enumerate().map(layer).collect::<Result<_, Error>>()?,
            norm: self.dense(NORM, 1, hidden)?,
            lm_head,
            identity,
            config: config.clone(),
        })
    }
}

const EMBED: &str = "model.embed_tokens.weight";
const NORM: &str = "model.norm.weight";
const HEAD: &str = "lm_head.weight";

fn vector_name(layer: usize, vector: Vector) -> String {
    let part = match vector {
        Vector::InputLayernorm => "input_layernorm.weight",
        Vector::PostAttentionLayernorm => "post_attention_layernorm.weight",
        Vector::QNorm => "self_attn.q_norm.weight",
        Vector::KNorm => "self_attn.k_norm.weight",
        Vector::Bias(linear) => return format!("{}.bias", linear.path(layer)),
    };
    format!("model.layers.{layer}.{part}")
}

fn linear_name(layer: usize, linear: Linear) -> String {
    format!("{}.weight", linear.path(layer))
}

/// Bytes of an element of a float type that can be read.
fn width(dtype: Dtype) -> Option<usize> {
    match dtype {
        Dtype::F32 => Some(4),
        Dtype::F16 | Dtype::BF16 => Some(2),
        _ => None,
    }
}

/// The rows `range` (of `cols` elements) of a float tensor, in f32.
fn widen(tensor: &RawTensor, cols: usize, range: Range<usize>, out: &mut [f32]) {
    let row = cols * width(tensor.dtype).unwrap_or(0);
    let data = &tensor.data[range.start * row..range.end * row];
    match tensor.dtype {
        Dtype::F32 => parts::widen(data, out, f32::from_le_bytes),
        Dtype::F16 => parts::widen(data, out, |b| f16::from_le_bytes(b).to_f32()),
        _ => parts::widen(data, out, |b| bf16::from_le_bytes(b).to_f32()),
    }
}
