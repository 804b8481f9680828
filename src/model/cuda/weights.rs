//! A base model's weights on the device.

use std::sync::Arc;

use half::bf16;

use super::{GpuError, Needs};
use crate::device::cuda::{Buf, Cuda, View};
use crate::model::config::Linear;
use crate::model::program::Norm;
use crate::model::weights::{Dense, LayerWeights, Matrix, Weights};
use crate::ops::gemm_bf16::cuda::PITCH;
use crate::ops::nf4_linear::cuda::Weight;
use crate::ops::{LaunchError, check_multiple, rope};

/// Everything that the programs of a model read and never write.
pub struct GpuWeights {
    cuda: Arc<Cuda>,
    embed_tokens: Buf<bf16>,
    /// `None`: tied.
    lm_head: Option<Buf<bf16>>,
    norm: Buf<bf16>,
    vectors: Vec<Vectors>,
    /// Of each layer, in the order of [`Linear::ALL`].
    linears: Vec<[GpuMatrix; 7]>,
    rope: rope::cuda::Tables,
}

/// The weight of a linear.
pub(super) enum GpuMatrix {
    Nf4(Weight),
    Bf16(Buf<bf16>),
}

impl GpuMatrix {
    /// NF4 and bf16 as they are; f32 is rounded to bf16, the one type that the kernels multiply.
    fn upload(cuda: &Arc<Cuda>, matrix: &Matrix) -> Result<Self, LaunchError> {
        if matrix.as_nf4().is_none() {
            let (_, in_features) = matrix.shape();
            check_multiple("gemm_bf16", "in_features of a weight", in_features, PITCH)?;
        }
        Ok(match matrix {
            Matrix::Nf4(w) => GpuMatrix::Nf4(Weight::upload(cuda, w)?),
            Matrix::Bf16(w) => GpuMatrix::Bf16(cuda.upload(w.as_slice())?),
            Matrix::F32(w) => {
                let rounded: Vec<bf16> = w.as_slice().iter().copied().map(bf16::from_f32).collect();
                GpuMatrix::Bf16(cuda.upload(&rounded)?)
            }
        })
    }

    /// Bytes that it takes on a device.
    fn bytes_of(matrix: &Matrix) -> usize {
        let (rows, cols) = matrix.shape();
        matrix.as_nf4().map_or(rows * cols * size_of::<bf16>(), Weight::bytes_of)
    }
}

/// Norms and biases of a layer.
struct Vectors {
    input_layernorm: Buf<bf16>,
    post_attention_layernorm: Buf<bf16>,
    qk_norm: Option<[Buf<bf16>; 2]>,
    /// In the order of [`Linear::ALL`].
    biases: [Option<Buf<bf16>>; 7],
}

impl Vectors {
    fn upload(cuda: &Arc<Cuda>, layer: &LayerWeights) -> Result<Self, GpuError> {
        let upload = |dense: &Dense| cuda.upload(dense.as_slice());
        let qk_norm = match &layer.qk_norm {
            Some([q, k]) => Some([upload(q)?, upload(k)?]),
            None => None,
        };
        let mut biases: [Option<Buf<bf16>>; 7] = Default::default();
        for (to, bias) in biases.iter_mut().zip(&layer.biases) {
            *to = bias.as_ref().map(upload).transpose()?;
        }
        let input_layernorm = upload(&layer.input_layernorm)?;
        let post_attention_layernorm = upload(&layer.post_attention_layernorm)?;
        Ok(Self { input_layernorm, post_attention_layernorm, qk_norm, biases })
    }
}

impl GpuWeights {
    /// Bytes that they take on a device.
    pub fn bytes_of(weights: &Weights) -> usize {
        let config = &weights.config;
        let layer = |layer: &LayerWeights| {
            let vectors: usize = layer.vectors().map(|vector| vector.data.len()).sum();
            vectors + layer.linears.iter().map(GpuMatrix::bytes_of).sum::<usize>()
        };
        let head = weights.lm_head.as_ref().map_or(0, |head| head.data.len());
        let tables = config.max_position_embeddings * config.head_dim * size_of::<f32>();
        weights.embed_tokens.data.len()
            + head
            + weights.norm.data.len()
            + weights.layers.iter().map(layer).sum::<usize>()
            + tables
    }

    /// Uploads them.
    pub(super) fn new(cuda: &Arc<Cuda>, weights: &Weights) -> Result<Self, GpuError> {
        let needs =
            Needs { weights: Self::bytes_of(weights), others: cuda.used(), ..Needs::default() };
        needs.check_alone(cuda.limit())?;
        let vectors = weights.layers.iter().map(|layer| Vectors::upload(cuda, layer));
        let linears = weights.layers.iter().enumerate().map(|(i, layer)| {
            let upload = |linear: Linear| {
                let loading = |source| GpuError::Op { op: linear.path(i), source };
                GpuMatrix::upload(cuda, layer.linear(linear)).map_err(loading)
            };
            let [q, k, v, o, gate, up, down] = Linear::ALL.map(upload);
            Ok([q?, k?, v?, o?, gate?, up?, down?])
        });
        let config = &weights.config;
        let positions = config.max_position_embeddings;
        let tables = rope::Tables::new(config.head_dim, &config.rope_velocities(), positions);
        let lm_head = weights.lm_head.as_ref().map(|head| cuda.upload(head.as_slice()));
        Ok(Self {
            embed_tokens: cuda.upload(weights.embed_tokens.as_slice())?,
            lm_head: lm_head.transpose()?,
            norm: cuda.upload(weights.norm.as_slice())?,
            vectors: vectors.collect::<Result<_, GpuError>>()?,
            linears: linears.collect::<Result<_, GpuError>>()?,
            rope: rope::cuda::Tables::new(cuda, &tables)?,
            cuda: cuda.clone(),
        })
    }

    /// The device that holds them.
    pub fn cuda(&self) -> &Arc<Cuda> {
        &self.cuda
    }

    /// `[vocab_size, hidden_size]`.
    pub(super) fn embed_tokens(&self) -> View<'_, bf16> {
        self.embed_tokens.view()
    }

    /// The output projection, tied or not.
    pub(super) fn head(&self) -> View<'_, bf16> {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens).view()
    }

    /// The weight of a norm.
    pub(super) fn norm(&self, norm: Norm) -> View<'_, bf16> {
        // The program has norms of q and k only where the model has them.
        let qk_norm = |layer: usize, which: usize| match &self.vectors[layer].qk_norm {
            Some(norms) => norms[which].view(),
            None => self.norm.view(),
        };
        match norm {
            Norm::Input(layer) => self.vectors[layer].input_layernorm.view(),
            Norm::PostAttention(layer) => self.vectors[layer].post_attention_layernorm.view(),
            Norm::Query(layer) => qk_norm(layer, 0),
            Norm::Key(layer) => qk_norm(layer, 1),
            Norm::Final => self.norm.view(),
        }
    }

    /// The bias of a linear, if it has one.
    pub(super) fn bias(&self, layer: usize, linear: Linear) -> Option<View<'_, bf16>> {
        self.vectors[layer].biases[linear as usize].as_ref().map(Buf::view)
    }

    /// One of the seven linears of a layer.
    pub(super) fn linear(&self, layer: usize, linear: Linear) -> &GpuMatrix {
        &self.linears[layer][linear as usize]
    }

    /// cos and sin of every position.
    pub(super) fn rope(&self) -> &rope::cuda::Tables {
        &self.rope
    }
}
