//! A base model on the devices that run it: what engines, caches and generators are made from.

use std::sync::Arc;

#[cfg(feature = "cuda")]
use super::cuda::Gpu;
use super::weights::Weights;
use crate::device::cpu::Cpu;

/// A base model, loaded. Clones share everything.
#[derive(Clone)]
pub struct Loaded {
    /// Runs the model if no GPU does, and whatever leads up to it.
    pub cpu: Arc<Cpu>,
    pub weights: Arc<Weights>,
    /// Runs the model, if there is one.
    #[cfg(feature = "cuda")]
    pub gpu: Option<Gpu>,
}

impl Loaded {
    /// The CPU runs it.
    pub fn on_cpu(cpu: Arc<Cpu>, weights: Arc<Weights>) -> Self {
        Self {
            cpu,
            weights,
            #[cfg(feature = "cuda")]
            gpu: None,
        }
    }

    /// A GPU that holds the same weights runs it.
    #[cfg(feature = "cuda")]
    pub fn on_gpu(cpu: Arc<Cpu>, weights: Arc<Weights>, gpu: Gpu) -> Self {
        Self { cpu, weights, gpu: Some(gpu) }
    }
}
