//! One model, ready to run one kind of program, on whichever device holds it.

use std::sync::Arc;

use super::batch::MicroBatch;
use super::cpu::CpuEngine;
#[cfg(feature = "cuda")]
use super::cuda::{self, CudaEngine};
use super::kv_cache::KvCache;
use super::llama::Kind;
use super::loaded::Loaded;
use super::lora_layout::LayoutError;
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::ops::{ShapeError, adamw};
use crate::philox::Moment;

/// A program could not be built or run.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error("running the model: {0}")]
    Shape(#[from] ShapeError),
    #[error("a batch of {got} tokens does not fit this engine's {capacity}")]
    TooManyTokens { got: usize, capacity: usize },
    #[error("{got} rows of logits were asked for, this engine has room for {capacity}")]
    TooManyRows { got: usize, capacity: usize },
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Gpu(#[from] cuda::GpuError),
}

impl EngineError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            #[cfg(feature = "cuda")]
            EngineError::Gpu(error) => error.hint(),
            _ => None,
        }
    }
}

/// What one run reads besides weights: the batch, flattened.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    pub tokens: &'a [u32],
    pub position_ids: &'a [u32],
    pub cu_seqlens: &'a [u32],
    /// Rows whose final hidden state is wanted: loss positions, or the last token of each row.
    pub positions: &'a [u32],
    /// The token that each position should predict; empty when generating.
    pub targets: &'a [u32],
    /// Multiplies the loss's gradient: one over the loss tokens of the accumulated step.
    pub loss_scale: f32,
    pub noise: Noise,
}

/// The randomness of a training run's micro-batch: dropout's masks, and NEFTune's noise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    pub moment: Moment,
    /// 0: no noise on the embeddings.
    pub neftune_alpha: f64,
}

impl<'a> Inputs<'a> {
    /// A packed micro-batch.
    pub fn of(batch: &'a MicroBatch, loss_scale: f32) -> Self {
        Self {
            tokens: &batch.tokens,
            position_ids: &batch.position_ids,
            cu_seqlens: &batch.cu_seqlens,
            positions: &batch.loss_positions,
            targets: &batch.targets,
            loss_scale,
            noise: Noise::default(),
        }
    }
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Of the accumulated gradients, before clipping.
    pub grad_norm: f64,
    /// The first gradient that is a NaN or an infinity: nothing was updated.
    pub non_finite: Option<usize>,
}

/// One model, ready to run one kind of program. `E` is the dtype of its activations; a GPU takes bf16 alone.
pub enum Engine<E> {
    Cpu(Box<CpuEngine<E>>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaEngine>),
}

impl<E: GemmElement> Engine<E> {
    /// Plans and allocates everything that running will need.
    ///
    /// On the CPU that includes scratch, which is each thread's own: the team's and the calling thread's.
    /// Another thread may run the engine; its first run then allocates, the later ones don't.
    pub fn new(
        model: &Loaded,
        adapter: Option<&Adapter>,
        kind: Kind,
        placement: Placement,
    ) -> Result<Self, EngineError> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &model.gpu {
            cuda::check_dtype::<E>()?;
            let engine = CudaEngine::new(model, gpu, adapter, kind, placement)?;
            return Ok(Self::Cuda(Box::new(engine)));
        }
        Ok(Self::Cpu(Box::new(CpuEngine::new(model, adapter, kind, placement)?)))
    }

    /// Bytes of planned memory (activations and scratch).
    pub fn planned_bytes(&self) -> usize {
        match self {
            Self::Cpu(engine) => engine.planned_bytes(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.planned_bytes(),
        }
    }

    /// The most tokens that one run takes.
    pub fn capacity(&self) -> usize {
        match self {
            Self::Cpu(engine) => engine.capacity(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.capacity(),
        }
    }

    /// Seconds spent in each kind of op since the engine was made, in order of first use.
    pub fn times(&self) -> &[(&'static str, f64)] {
        match self {
            Self::Cpu(engine) => engine.times(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.times(),
        }
    }

    /// The base it runs on.
    pub fn weights(&self) -> &Arc<Weights> {
        match self {
            Self::Cpu(engine) => engine.weights(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.weights(),
        }
    }

    /// The ops' names, in the order in which they run.
    pub fn op_names(&self) -> &[String] {
        match self {
            Self::Cpu(engine) => engine.op_names(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.op_names(),
        }
    }

    /// Runs a micro-batch: losses, and for `Kind::Train` gradients, which are ADDED to those so far.
    pub fn run(&mut self, batch: &MicroBatch, loss_scale: f32) -> Result<(), EngineError> {
        self.execute(&Inputs::of(batch, loss_scale), None)
    }

    /// Runs the program, and waits for it. `cache` is needed by `Kind::Generate`, and made for the same device.
    pub fn execute(
        &mut self,
        inputs: &Inputs<'_>,
        cache: Option<&mut KvCache<E>>,
    ) -> Result<(), EngineError> {
        match self {
            Self::Cpu(engine) => engine.execute(inputs, cache),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.execute(inputs, cache.map(KvCache::on_gpu).transpose()?),
        }
    }

    /// The losses (−log p, nats) of the last run, one for each loss position.
    pub fn losses(&mut self) -> &[f32] {
        match self {
            Self::Cpu(engine) => engine.losses(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.losses(),
        }
    }

    /// The logits `[rows, vocab]` of the last run of a `Kind::Generate` program.
    pub fn logits(&mut self) -> &[f32] {
        match self {
            Self::Cpu(engine) => engine.logits(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.logits(),
        }
    }

    /// The accumulated gradients, laid out as the adapter's parameters.
    pub fn grads(&mut self) -> Result<&[f32], EngineError> {
        match self {
            Self::Cpu(engine) => Ok(engine.grads()),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.grads(),
        }
    }

    /// Begins a new accumulation.
    pub fn zero_grads(&mut self) -> Result<(), EngineError> {
        match self {
            Self::Cpu(engine) => engine.zero_grads(),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.zero_grads()?,
        }
        Ok(())
    }

    /// Clips the accumulated gradients and applies them with AdamW. Nothing changes when one is not finite.
    ///
    /// On the CPU `params` are the master parameters. On a GPU the master parameters are its own, and
    /// `params` stay behind until [`Engine::read_params`].
    pub fn update(
        &mut self,
        hyper: &adamw::Hyper,
        max_grad_norm: f64,
        params: &mut [f32],
    ) -> Result<Update, EngineError> {
        match self {
            Self::Cpu(engine) => engine.update(hyper, max_grad_norm, params),
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.update(hyper, max_grad_norm),
        }
    }

    /// Brings `params` up to the last update.
    pub fn read_params(&mut self, params: &mut [f32]) -> Result<(), EngineError> {
        match self {
            // They are the master parameters.
            Self::Cpu(_) => {
                let _ = params;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(engine) => engine.read_params(params),
        }
    }
}
