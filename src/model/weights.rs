//! The frozen base in memory: linears in NF4, bf16 or f32, everything else in bf16.

use std::marker::PhantomData;

use half::bf16;

use super::config::{Linear, LlamaConfig};
use crate::device::bytes::Bytes;
use crate::ops::linear::{Rows, Weight};
use crate::quant::{Absmax, Nf4Matrix};

/// A matrix `[rows, cols]` of bf16 (or f32), row-major, owned or in a mapped file, aligned for its elements.
#[derive(Clone, Debug)]
pub struct Dense<T = bf16> {
    pub rows: usize,
    pub cols: usize,
    pub data: Bytes,
    element: PhantomData<T>,
}

impl<T: bytemuck::Pod> Dense<T> {
    /// A matrix whose elements are `data`, in the machine's byte order.
    pub fn new(rows: usize, cols: usize, data: Bytes) -> Self {
        Self { rows, cols, data, element: PhantomData }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        bytemuck::cast_slice(&self.data)
    }

    fn as_rows(&self) -> Rows<'_, T> {
        Rows { rows: self.rows, cols: self.cols, data: self.as_slice() }
    }
}

/// The weight of a linear, `[out_features, in_features]`. One model may hold several kinds.
#[derive(Clone, Debug)]
pub enum Matrix {
    Nf4(Nf4Matrix),
    Bf16(Dense),
    /// For activations in f32.
    F32(Dense<f32>),
}

impl Matrix {
    /// As the ops take it.
    pub fn as_weight(&self) -> Weight<'_> {
        match self {
            Matrix::Nf4(w) => Weight::Nf4(w),
            Matrix::Bf16(w) => Weight::Bf16(w.as_rows()),
            Matrix::F32(w) => Weight::F32(w.as_rows()),
        }
    }

    /// Output and input features.
    pub fn shape(&self) -> (usize, usize) {
        self.as_weight().shape()
    }

    /// The matrix if it is in NF4.
    pub fn as_nf4(&self) -> Option<&Nf4Matrix> {
        match self {
            Matrix::Nf4(w) => Some(w),
            Matrix::Bf16(_) | Matrix::F32(_) => None,
        }
    }
}

impl From<Nf4Matrix> for Matrix {
    fn from(matrix: Nf4Matrix) -> Self {
        Matrix::Nf4(matrix)
    }
}

impl From<Dense> for Matrix {
    fn from(matrix: Dense) -> Self {
        Matrix::Bf16(matrix)
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
    pub linears: [Matrix; 7],
    /// `[out_features]`, in the order of [`Linear::ALL`], where the model has them.
    pub biases: [Option<Dense>; 7],
}

impl LayerWeights {
    /// One of the seven linears.
    pub fn linear(&self, linear: Linear) -> &Matrix {
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

    /// Elements of its linears, and of everything: the model's parameters.
    pub fn parameters(&self) -> (usize, usize) {
        let dense = |dense: &Dense| dense.rows * dense.cols;
        let of = |linear: &Matrix| linear.shape().0 * linear.shape().1;
        let linears = self.layers.iter().flat_map(|layer| &layer.linears).map(of).sum();
        let vectors: usize = self.layers.iter().flat_map(LayerWeights::vectors).map(dense).sum();
        let rest = [Some(&self.embed_tokens), Some(&self.norm), self.lm_head.as_ref()];
        (linears, linears + vectors + rest.into_iter().flatten().map(dense).sum::<usize>())
    }

    /// How the linears are held, for records: `NF4, double quantised`, `bf16, not quantised`; of a model with
    /// several kinds `NF4, double quantised (of 14 linears 3 in bf16)`.
    pub fn held(&self) -> String {
        let linears = || self.layers.iter().flat_map(|layer| &layer.linears);
        let count = |kind: fn(&Matrix) -> bool| linears().filter(|linear| kind(linear)).count();
        let all = linears().count();
        let dense = [
            (count(|linear| matches!(linear, Matrix::Bf16(_))), "bf16"),
            (count(|linear| matches!(linear, Matrix::F32(_))), "f32"),
        ];
        let there: Vec<&(usize, &str)> = dense.iter().filter(|(count, _)| *count > 0).collect();
        if let [(count, kind)] = there[..]
            && *count == all
        {
            return format!("{kind}, not quantised");
        }
        let nested = |linear: &Matrix| {
            linear.as_nf4().is_some_and(|w| matches!(w.absmax, Absmax::Nested { .. }))
        };
        let double = if count(nested) > 0 { ", double quantised" } else { "" };
        let parts: Vec<String> =
            there.iter().map(|(count, kind)| format!("{count} in {kind}")).collect();
        match parts.is_empty() {
            true => format!("NF4{double}"),
            false => format!("NF4{double} (of {all} linears {})", parts.join(", ")),
        }
    }
}
