//! The frozen base in memory: NF4 linears, everything else in bf16.

use half::bf16;

use super::config::{Linear, LlamaConfig};
use crate::device::bytes::Bytes;
use crate::quant::Nf4Matrix;

/// A bf16 matrix `[rows, cols]`, row-major, owned or in a mapped file (2-byte aligned).
#[derive(Clone, Debug)]
pub struct Dense {
    pub rows: usize,
    pub cols: usize,
    pub data: Bytes,
}

impl Dense {
    /// The elements.
    pub fn as_slice(&self) -> &[bf16] {
        bytemuck::cast_slice(&self.data)
    }
}

/// One decoder layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    pub input_layernorm: Dense,
    pub post_attention_layernorm: Dense,
    /// Of each head of q and of k, `[head_dim]`, where the model has them.
    pub qk_norm: Option<[Dense; 2]>,
    /// In the order of [`Linear::ALL`].
    pub linears: [Nf4Matrix; 7],
    /// `[out_features]`, in the order of [`Linear::ALL`], where the model has them.
    pub biases: [Option<Dense>; 7],
}

impl LayerWeights {
    /// One of the seven linears.
    pub fn linear(&self, linear: Linear) -> &Nf4Matrix {
        &self.linears[linear as usize]
    }

    /// The bias of a linear, if it has one.
    pub fn bias(&self, linear: Linear) -> Option<&[bf16]> {
        self.biases[linear as usize].as_ref().map(Dense::as_slice)
    }

    /// The vectors beside the linears: norms and biases, in the order of the cache file.
    pub fn vectors(&self) -> impl Iterator<Item = &Dense> {
        let norms = [&self.input_layernorm, &self.post_attention_layernorm].into_iter();
        norms.chain(self.qk_norm.iter().flatten()).chain(self.biases.iter().flatten())
    }
}

/// A whole base model.
#[derive(Clone, Debug)]
pub struct Weights {
    pub config: LlamaConfig,
    /// `[vocab_size, hidden_size]`.
    pub embed_tokens: Dense,
    pub layers: Vec<LayerWeights>,
    /// The final norm.
    pub norm: Dense,
    /// `[vocab_size, hidden_size]`; `None` when tied to `embed_tokens`.
    pub lm_head: Option<Dense>,
    /// See [`Weights::identity`].
    pub identity: String,
}

impl Weights {
    /// The output projection, tied or not.
    pub fn head(&self) -> &Dense {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// Which bytes the base is: the source's name and the start of its content hash, as in
    /// `SmolLM2-135M-Instruct.Q4_1.gguf (sha256-tree 0123456789abcdef)`. For the adapter's README
    /// and run records; the same files give the same string on every machine.
    pub fn identity(&self) -> &str {
        &self.identity
    }
}
