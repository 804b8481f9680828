//! The training step: micro-batches in, one update of the adapter out.

use std::sync::Arc;
use std::time::Instant;

use crate::adapter::Adapter;
use crate::device::cpu::{Cpu, GemmElement};
use crate::device::memory::Placement;
use crate::model::batch::MicroBatch;
use crate::model::engine::{Inputs, Noise};
use crate::model::llama::Kind;
use crate::model::{Engine, EngineError, Loaded};
use crate::ops::{adamw, reduce};
use crate::philox::Moment;

/// What stays the same from step to step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerOptions {
    /// Most tokens of a micro-batch.
    pub micro_batch_tokens: usize,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; infinite: never.
    pub max_grad_norm: f64,
    /// NEFTune's alpha; 0: no noise.
    pub neftune_alpha: f64,
    /// Of the noise and of dropout's masks.
    pub seed: u64,
    pub placement: Placement,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// 1 for the first.
    pub step: u64,
    /// Mean over all loss tokens of the accumulated step, nats.
    pub loss: f64,
    pub lr: f64,
    /// Before clipping.
    pub grad_norm: f64,
    /// Real tokens: nothing is padded.
    pub tokens: usize,
    pub loss_tokens: usize,
    pub seconds: f64,
}

/// A step failed. The adapter is as it was before the step.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("step {step}: {error}")]
    Engine { step: u64, error: EngineError },
    #[error("step {step} has no loss token")]
    NoLossTokens { step: u64 },
    #[error(
        "step {step}: the loss of micro-batch {micro_batch} of {of} is {loss}; the adapter's \
         parameters are finite, so it arose in the activations of that micro-batch"
    )]
    Loss { step: u64, loss: f64, micro_batch: usize, of: usize },
    #[error("step {step}: {tensor} of the adapter holds {value}")]
    Parameter { step: u64, tensor: String, value: f32 },
    #[error("step {step}: the gradient of {tensor} holds a NaN or an infinity")]
    Gradient { step: u64, tensor: String },
}

impl StepError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            StepError::NoLossTokens { .. } => {
                "every label of these rows is masked: look at the data's template and lengths"
            }
            StepError::Loss { .. } | StepError::Gradient { .. } | StepError::Parameter { .. } => {
                "a lower learning_rate or max_grad_norm, or compute_dtype = \"f32\", usually helps"
            }
            StepError::Engine { error, .. } => return error.hint(),
        };
        Some(text.to_string())
    }
}

/// Drives an engine that trains, and holds the adapter.
pub struct Trainer<E> {
    cpu: Arc<Cpu>,
    engine: Engine<E>,
    adapter: Adapter,
    /// The engine's parameters are newer than `adapter`.
    stale: bool,
    options: TrainerOptions,
    step: u64,
}

impl<E: GemmElement> Trainer<E> {
    /// Plans and allocates everything before step 0.
    pub fn new(
        model: &Loaded,
        adapter: Adapter,
        options: TrainerOptions,
    ) -> Result<Self, EngineError> {
        let kind = Kind::Train { tokens: options.micro_batch_tokens };
        let engine = Engine::new(model, Some(&adapter), kind, options.placement)?;
        Ok(Self { cpu: model.cpu.clone(), engine, adapter, stale: false, options, step: 0 })
    }

    /// The adapter as it is now.
    pub fn adapter(&mut self) -> Result<&Adapter, EngineError> {
        if self.stale {
            self.engine.read_params(&mut self.adapter.params)?;
            self.stale = false;
        }
        Ok(&self.adapter)
    }

    /// The adapter as it was last read or saved: all there is when the device has failed.
    pub fn last_adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Bytes of activations and scratch.
    pub fn planned_bytes(&self) -> usize {
        self.engine.planned_bytes()
    }

    /// Seconds spent in each kind of op so far.
    pub fn times(&self) -> &[(&'static str, f64)] {
        self.engine.times()
    }

    /// The gradients of the last step before clipping, laid out as the adapter's parameters.
    pub fn gradients(&mut self) -> Result<&[f32], EngineError> {
        self.engine.grads()
    }

    /// One optimizer step over `batches`, with the learning rate `lr`.
    ///
    /// The loss is the mean over all loss tokens of all batches: the divisor is known from the
    /// packing before the first of them runs.
    pub fn step(&mut self, batches: &[MicroBatch], lr: f64) -> Result<StepReport, StepError> {
        let start = Instant::now();
        let step = self.step + 1;
        let loss_tokens: usize = batches.iter().map(|batch| batch.targets.len()).sum();
        if loss_tokens == 0 {
            return Err(StepError::NoLossTokens { step });
        }
        let loss_scale = (1.0 / loss_tokens as f64) as f32;
        let failed = |error| StepError::Engine { step, error };
        self.engine.zero_grads().map_err(failed)?;
        let mut loss = 0.0;
        for (i, batch) in batches.iter().enumerate() {
            let inputs = Inputs { noise: self.noise(step, i), ..Inputs::of(batch, loss_scale) };
            self.engine.execute(&inputs, None).map_err(failed)?;
            let sum = self.engine.losses().iter().map(|&x| f64::from(x)).sum::<f64>();
            if !sum.is_finite() {
                self.check_parameters(step)?;
                let (micro_batch, of) = (i + 1, batches.len());
                return Err(StepError::Loss { step, loss: sum, micro_batch, of });
            }
            loss += sum;
        }
        loss /= loss_tokens as f64;
        let grad_norm = self.update(step, lr)?;
        self.step = step;
        Ok(StepReport {
            step,
            loss,
            lr,
            grad_norm,
            tokens: batches.iter().map(|batch| batch.tokens.len()).sum(),
            loss_tokens,
            seconds: start.elapsed().as_secs_f64(),
        })
    }

    /// The randomness of a micro-batch: of its place in the run alone, so that a run can be gone on with.
    fn noise(&self, step: u64, micro_batch: usize) -> Noise {
        let TrainerOptions { seed, neftune_alpha, .. } = self.options;
        let moment = Moment { seed, step: step as u32, micro_batch: micro_batch as u32 };
        Noise { moment, neftune_alpha }
    }

    /// Every parameter of the adapter is finite; `step` is for the error.
    pub fn check_parameters(&mut self, step: u64) -> Result<(), StepError> {
        self.adapter().map_err(|error| StepError::Engine { step, error })?;
        match reduce::first_non_finite(&self.cpu, &self.adapter.params) {
            None => Ok(()),
            Some(index) => {
                let (tensor, value) = (self.adapter.tensor_at(index), self.adapter.params[index]);
                Err(StepError::Parameter { step, tensor, value })
            }
        }
    }

    /// Clips and applies the accumulated gradients. Returns their norm.
    fn update(&mut self, step: u64, lr: f64) -> Result<f64, StepError> {
        let TrainerOptions { beta1, beta2, eps, weight_decay, max_grad_norm, .. } = self.options;
        let hyper = adamw::Hyper { lr, beta1, beta2, eps, weight_decay, step };
        let update = self.engine.update(&hyper, max_grad_norm, &mut self.adapter.params);
        let update = update.map_err(|error| StepError::Engine { step, error })?;
        if let Some(index) = update.non_finite {
            return Err(StepError::Gradient { step, tensor: self.adapter.tensor_at(index) });
        }
        self.stale = true;
        Ok(update.grad_norm)
    }
}
