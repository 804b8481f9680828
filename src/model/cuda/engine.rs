//! The engine on a GPU: runs a program op by op on planned device memory.

use std::sync::Arc;
use std::time::Instant;

use super::adapter::GpuAdapter;
use super::batch::Batch;
use super::cache::GpuCache;
use super::run::Run;
use super::{Gpu, GpuError};
use crate::adapter::Adapter;
use crate::device::cuda::Memory;
use crate::device::memory::Placement;
use crate::model::engine::{EngineError, Inputs, Update};
use crate::model::llama::{self, Kind, LlamaProgram, Target, logits_pitch};
use crate::model::loaded::Loaded;
use crate::model::program::Group;
use crate::model::weights::Weights;
use crate::ops::adamw;

/// One model on a GPU, ready to run one kind of program.
pub struct CudaEngine {
    gpu: Gpu,
    weights: Arc<Weights>,
    adapter: Option<GpuAdapter>,
    plan: LlamaProgram,
    kind: Kind,
    memory: Memory,
    batch: Batch,
    /// Results of the last run, on the host.
    losses: Vec<f32>,
    logits: Vec<f32>,
    grads: Vec<f32>,
    times: [(&'static str, f64); 1],
}

impl CudaEngine {
    /// Plans and allocates everything that running will need.
    pub(in crate::model) fn new(
        model: &Loaded,
        gpu: &Gpu,
        adapter: Option<&Adapter>,
        kind: Kind,
        placement: Placement,
    ) -> Result<Self, EngineError> {
        let (cuda, config) = (gpu.cuda(), &model.weights.config);
        let train = matches!(kind, Kind::Train { .. });
        let adapter =
            adapter.map(|adapter| GpuAdapter::new(cuda, config, adapter, train)).transpose()?;
        let columns = |layer: usize, group: Group| {
            adapter.as_ref().map_or(0, |adapter| adapter.layout.group(layer, group).columns)
        };
        let target = Target::Cuda { dispatch: &gpu.dispatch, splits: 8 };
        let plan = llama::build(config, kind, target, &columns);
        let memory = Memory::new(cuda, plan.program.specs(), placement).map_err(GpuError::from)?;
        Ok(Self {
            weights: model.weights.clone(),
            adapter,
            plan,
            kind,
            memory,
            batch: Batch::new(cuda, kind).map_err(GpuError::from)?,
            losses: Vec::new(),
            logits: Vec::new(),
            grads: Vec::new(),
            times: [("on the GPU", 0.0)],
            gpu: gpu.clone(),
        })
    }

    /// Bytes of planned memory (activations and scratch).
    pub fn planned_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The most tokens that one run takes.
    pub fn capacity(&self) -> usize {
        self.kind.tokens()
    }

    /// Seconds spent in runs, waiting for the device included.
    pub fn times(&self) -> &[(&'static str, f64)] {
        &self.times
    }

    /// The base it runs on.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// The ops' names, in the order in which they run.
    pub fn op_names(&self) -> &[String] {
        self.plan.program.names()
    }

    /// The losses of the last run.
    pub fn losses(&self) -> &[f32] {
        &self.losses
    }

    /// The logits of the last run.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Runs the program and waits for it. `cache` comes with the tokens that each of its rows has.
    pub fn execute(
        &mut self,
        inputs: &Inputs<'_>,
        cache: Option<(&mut GpuCache, &[u32])>,
    ) -> Result<(), EngineError> {
        let start = Instant::now();
        let (got, capacity) = (inputs.tokens.len(), self.capacity());
        if got > capacity {
            return Err(EngineError::TooManyTokens { got, capacity });
        }
        let (got, capacity) = (inputs.positions.len(), self.kind.rows());
        if got > capacity {
            return Err(EngineError::TooManyRows { got, capacity });
        }
        let lens = cache.as_ref().map(|(cache, lens)| (cache.capacity, *lens));
        self.batch.set_all(&self.weights.config, inputs, self.kind, lens)?;
        self.run(inputs, cache.map(|(cache, _)| cache))?;
        self.times[0].1 += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn run(
        &mut self,
        inputs: &Inputs<'_>,
        mut cache: Option<&mut GpuCache>,
    ) -> Result<(), GpuError> {
        let cuda = self.gpu.cuda().clone();
        self.batch.upload(&cuda)?;
        let Self { gpu, weights, adapter, plan, memory, batch, .. } = self;
        let mut run = Run {
            cuda: &cuda,
            weights: &gpu.weights,
            config: &weights.config,
            dispatch: &gpu.dispatch,
            adapter: adapter.as_mut(),
            batch,
            memory,
            loss_scale: inputs.loss_scale,
            n: inputs.tokens.len(),
            p: inputs.positions.len(),
        };
        let program = &plan.program;
        for (tick, (op, name)) in program.ops.iter().zip(program.names()).enumerate() {
            run.memory.begin(tick)?;
            run.op(op, cache.as_deref_mut())
                .map_err(|source| GpuError::Op { op: name.clone(), source })?;
        }
        self.read_results(inputs.positions.len())
    }

    /// Copies losses or logits to the host, which waits for them.
    fn read_results(&mut self, rows: usize) -> Result<(), GpuError> {
        let cuda = self.gpu.cuda();
        self.memory.begin(self.plan.program.end())?;
        if let Kind::Generate { .. } = self.kind {
            let vocab = self.weights.config.vocab_size;
            let pitch = logits_pitch(vocab);
            let ([logits], []) = self.memory.borrow([self.plan.logits], []);
            self.logits = cuda.download(logits.cast().slice(0..rows * pitch))?;
            // Rows move together: nothing of the padding is left.
            for row in 1..rows {
                self.logits.copy_within(row * pitch..row * pitch + vocab, row * vocab);
            }
            self.logits.truncate(rows * vocab);
        } else {
            let ([losses], []) = self.memory.borrow([self.plan.losses], []);
            self.losses = cuda.download(losses.cast().slice(0..rows))?;
        }
        Ok(cuda.synchronize()?)
    }

    /// The accumulated gradients, laid out as the adapter's parameters.
    pub fn grads(&mut self) -> Result<&[f32], EngineError> {
        if let Some(training) = self.adapter.as_ref().and_then(|a| a.training.as_ref()) {
            self.grads = self.gpu.cuda().download(training.grads.view()).map_err(GpuError::from)?;
        }
        Ok(&self.grads)
    }

    /// Begins a new accumulation.
    pub fn zero_grads(&mut self) -> Result<(), GpuError> {
        if let Some(training) = self.adapter.as_mut().and_then(|a| a.training.as_mut()) {
            self.gpu.cuda().fill(&mut training.grads.view_mut(), 0)?;
        }
        Ok(())
    }

    /// Clips and applies the accumulated gradients.
    pub fn update(
        &mut self,
        hyper: &adamw::Hyper,
        max_grad_norm: f64,
    ) -> Result<Update, EngineError> {
        let _ = (hyper, max_grad_norm);
        todo!()
    }

    /// Copies the parameters to the host.
    pub fn read_params(&mut self, params: &mut [f32]) -> Result<(), EngineError> {
        if let Some(training) = self.adapter.as_ref().and_then(|a| a.training.as_ref()) {
            self.gpu.cuda().read(training.params.view(), params).map_err(GpuError::from)?;
        }
        Ok(())
    }
}
