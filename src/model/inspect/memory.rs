//! What a supported model comes to in memory.

use serde::Serialize;

use crate::model::config::{Linear, LlamaConfig};
use crate::model::parts::Vector;
use crate::quant::nf4;

/// Parameters and bytes of what is quantised and of what stays in 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Parameters of the layers' linears.
    pub linear_parameters: u64,
    /// Their bytes as NF4 with double quantisation.
    pub nf4_bytes: u64,
    /// Parameters of the embedding, the head where it is one of its own, norms and biases.
    pub dense_parameters: u64,
    /// Their bytes in bf16.
    pub dense_bytes: u64,
}

impl Memory {
    /// Of a model of this shape.
    pub fn of(config: &LlamaConfig) -> Self {
        let layers = config.num_hidden_layers as u64;
        let (mut linears, mut nf4_bytes) = (0, 0);
        for (rows, cols) in Linear::ALL.map(|linear| linear.shape(config)) {
            linears += (rows * cols) as u64;
            nf4_bytes += nf4::bytes(rows, cols);
        }
        let vectors: usize = Vector::of(config).into_iter().map(|v| v.len(config)).sum();
        let tables = if config.tie_word_embeddings { 1 } else { 2 };
        let embedding = (config.vocab_size * config.hidden_size) as u64;
        let dense = tables * embedding + config.hidden_size as u64 + layers * vectors as u64;
        Self {
            linear_parameters: layers * linears,
            nf4_bytes: layers * nf4_bytes,
            dense_parameters: dense,
            dense_bytes: 2 * dense,
        }
    }

    /// All parameters.
    pub fn parameters(&self) -> u64 {
        self.linear_parameters + self.dense_parameters
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.nf4_bytes + self.dense_bytes
    }
}
