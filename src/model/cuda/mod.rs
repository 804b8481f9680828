//! The model on an NVIDIA GPU: weights uploaded once, the same programs as the CPU's run op by op.

mod adapter;
mod batch;
mod bisect;
mod cache;
mod engine;
mod error;
mod needs;
mod run;
mod weights;

use std::sync::Arc;

pub use bisect::check_op;
pub use cache::GpuCache;
pub use engine::CudaEngine;
pub use error::GpuError;
pub use needs::{Needs, Shortage};
pub use weights::GpuWeights;

use super::config::LlamaConfig;
use super::dispatch::Dispatch;
use super::weights::Weights;
use crate::device::cpu::Element;
use crate::device::cuda::Cuda;

/// A GPU with a base model on it, and how it is to be used. Clones share everything.
#[derive(Clone)]
pub struct Gpu {
    pub weights: Arc<GpuWeights>,
    pub dispatch: Arc<Dispatch>,
    /// To find a wrong result: the CPU runs the ops before the one of this name.
    pub cpu_until: Option<String>,
}

impl Gpu {
    /// Uploads a base model.
    ///
    /// # Errors
    /// A model that the kernels do not take; a shape that `dispatch` lacks; memory.
    pub fn new(cuda: &Arc<Cuda>, weights: &Weights, dispatch: Dispatch) -> Result<Self, GpuError> {
        check_model(&weights.config)?;
        if let Some((out_features, in_features)) = dispatch.missing(&weights.config) {
            return Err(GpuError::Dispatch { out_features, in_features });
        }
        // The driver compiles the kernels now, while there is room, not in the first step.
        for source in crate::ops::cuda_sources() {
            cuda.load(source)?;
        }
        let weights = Arc::new(GpuWeights::new(cuda, weights)?);
        Ok(Self { weights, dispatch: Arc::new(dispatch), cpu_until: None })
    }

    /// The device.
    pub fn cuda(&self) -> &Arc<Cuda> {
        self.weights.cuda()
    }
}

/// Checks that there are kernels for a model's shape.
pub fn check_model(config: &LlamaConfig) -> Result<(), GpuError> {
    if !matches!(config.head_dim, 64 | 128) {
        return Err(GpuError::HeadDim { got: config.head_dim });
    }
    for (what, got) in
        [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)]
    {
        if !got.is_multiple_of(8) {
            return Err(GpuError::Width { what, got });
        }
    }
    Ok(())
}

/// Checks that activations are bf16.
pub(super) fn check_dtype<E: Element>() -> Result<(), GpuError> {
    if size_of::<E>() == size_of::<half::bf16>() { Ok(()) } else { Err(GpuError::Dtype) }
}
