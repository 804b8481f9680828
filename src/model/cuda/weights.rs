//! A base model's weights on the device.

use std::sync::Arc;

use half::bf16;

use super::{GpuError, Needs};
use crate::device::cuda::{Buf, Cuda, View};
use crate::model::config::Linear;
use crate::model::program::Norm;
use crate::model::weights::{LayerWeights, Weights};
use crate::ops::nf4_linear::cuda::Weight;
use crate::ops::rope;

/// Everything that the programs of a model read and never write.
pub struct GpuWeights {
    cuda: Arc<Cuda>,
    embed_tokens: Buf<bf16>,
    /// `None`: tied.
    lm_head: Option<Buf<bf16>>,
    norm: Buf<bf16>,
    /// Of each layer: input_layernorm, post_attention_layernorm.
    norms: Vec<[Buf<bf16>; 2]>,
    /// Of each layer, in the order of [`Linear::ALL`].
    linears: Vec<[Weight; 7]>,
    rope: rope::cuda::Tables,
}

impl GpuWeights {
    /// Bytes that they take on a device.
    pub fn bytes_of(weights: &Weights) -> usize {
        let config = &weights.config;
        let layer = |layer: &LayerWeights| {
            let norms = [&layer.input_layernorm, &layer.post_attention_layernorm];
            let norms: usize = norms.iter().map(|norm| norm.data.len()).sum();
            norms + layer.linears.iter().map(Weight::bytes_of).sum::<usize>()
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
        let norms = weights.layers.iter().map(|layer| {
            let norms = [&layer.input_layernorm, &layer.post_attention_layernorm];
            let [input, post] = norms.map(|norm| cuda.upload(norm.as_slice()));
            Ok([input?, post?])
        });
        let linears = weights.layers.iter().enumerate().map(|(i, layer)| {
            let upload = |linear: Linear| {
                let loading = |source| GpuError::Op { op: linear.path(i), source };
                Weight::upload(cuda, layer.linear(linear)).map_err(loading)
            };
            let [q, k, v, o, gate, up, down] = Linear::ALL.map(upload);
            Ok([q?, k?, v?, o?, gate?, up?, down?])
        });
        let config = &weights.config;
        let positions = config.max_position_embeddings;
        let tables = rope::Tables::new(config.head_dim, config.rope_theta, positions);
        let lm_head = weights.lm_head.as_ref().map(|head| cuda.upload(head.as_slice()));
        Ok(Self {
            embed_tokens: cuda.upload(weights.embed_tokens.as_slice())?,
            lm_head: lm_head.transpose()?,
            norm: cuda.upload(weights.norm.as_slice())?,
            norms: norms.collect::<Result<_, GpuError>>()?,
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
        match norm {
            Norm::Input(layer) => self.norms[layer][0].view(),
            Norm::PostAttention(layer) => self.norms[layer][1].view(),
            Norm::Final => self.norm.view(),
        }
    }

    /// One of the seven linears of a layer.
    pub(super) fn linear(&self, layer: usize, linear: Linear) -> &Weight {
        &self.linears[layer][linear as usize]
    }

    /// cos and sin of every position.
    pub(super) fn rope(&self) -> &rope::cuda::Tables {
        &self.rope
    }
}
