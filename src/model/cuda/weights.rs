//! A base model's weights on the device.

use std::sync::Arc;

use half::bf16;

use super::GpuError;
use crate::device::cuda::{Buf, Cuda, View};
use crate::model::program::Norm;
use crate::model::weights::Weights;

/// Everything that the programs of a model read and never write.
pub struct GpuWeights {
    cuda: Arc<Cuda>,
    embed_tokens: Buf<bf16>,
    /// `None`: tied.
    lm_head: Option<Buf<bf16>>,
    norm: Buf<bf16>,
    /// Of each layer: input_layernorm, post_attention_layernorm.
    norms: Vec<[Buf<bf16>; 2]>,
}

impl GpuWeights {
    /// Uploads them.
    pub(super) fn new(cuda: &Arc<Cuda>, weights: &Weights) -> Result<Self, GpuError> {
        let norms = weights.layers.iter().map(|layer| {
            let norms = [&layer.input_layernorm, &layer.post_attention_layernorm];
            let [input, post] = norms.map(|norm| cuda.upload(norm.as_slice()));
            Ok([input?, post?])
        });
        let lm_head = weights.lm_head.as_ref().map(|head| cuda.upload(head.as_slice()));
        Ok(Self {
            embed_tokens: cuda.upload(weights.embed_tokens.as_slice())?,
            lm_head: lm_head.transpose()?,
            norm: cuda.upload(weights.norm.as_slice())?,
            norms: norms.collect::<Result<_, GpuError>>()?,
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
}
