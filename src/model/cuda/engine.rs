//! The engine on a GPU: runs a program op by op on planned device memory.

use std::sync::Arc;
use std::time::Instant;

use super::adapter::GpuAdapter;
use super::batch::Batch;
use super::bisect::Bisect;
use super::cache::GpuCache;
use super::needs::{self, Needs};
use super::run::Run;
use super::{Gpu, GpuError};
use crate::adapter::Adapter;
use crate::device::cuda::{CudaError, Mark, Memory};
use crate::device::memory::Placement;
use crate::model::engine::{EngineError, Inputs, Update};
use crate::model::llama::{Kind, LlamaProgram, logits_pitch};
use crate::model::loaded::Loaded;
use crate::model::weights::Weights;
use crate::ops::{LaunchError, adamw};

/// One model on a GPU, ready to run one kind of program.
pub struct CudaEngine {
    gpu: Gpu,
    weights: Arc<Weights>,
    adapter: Option<GpuAdapter>,
    plan: LlamaProgram,
    kind: Kind,
    memory: Memory,
    batch: Batch,
    /// How many ops of the run in progress the device has finished.
    mark: Mark,
    bisect: Option<Bisect>,
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
        Needs::check_more(gpu, &model.weights, adapter, kind)?;
        let train = matches!(kind, Kind::Train { .. });
        let device_adapter = adapter
            .map(|adapter| GpuAdapter::new(&model.cpu, cuda, config, adapter, train))
            .transpose()?;
        let layout = device_adapter.as_ref().map(|adapter| &adapter.layout);
        let plan = needs::program(&model.weights, kind, &gpu.dispatch, layout);
        let until = gpu.cpu_until.as_ref().filter(|_| train);
        let bisect =
            until.map(|name| Bisect::new(model, adapter, kind, &plan.program, name)).transpose()?;
        let memory = Memory::new(cuda, plan.program.specs(), placement).map_err(GpuError::from)?;
        Ok(Self {
            weights: model.weights.clone(),
            adapter: device_adapter,
            plan,
            kind,
            memory,
            batch: Batch::new(cuda, kind).map_err(GpuError::from)?,
            mark: Mark::new(cuda).map_err(GpuError::from)?,
            bisect,
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
        cache: Option<&mut GpuCache>,
    ) -> Result<(), EngineError> {
        let cuda = self.gpu.cuda().clone();
        self.batch.upload(&cuda).map_err(GpuError::from)?;
        let Self { bisect, memory, adapter, .. } = self;
        let first = match bisect {
            Some(bisect) => bisect.run(&cuda, inputs, memory, adapter.as_mut())?,
            None => 0,
        };
        let done = self.start(first, inputs, cache).and_then(|()| {
            let rows = inputs.positions.len();
            self.read_results(rows).map_err(|error| (self.op_names().len(), error.into()))
        });
        let behind = "the copy of the results to the host";
        Ok(done.map_err(|(asked, source)| self.fault(asked, source, behind))?)
    }

    /// Starts the ops from the `first` on; an error comes with the op that was to be started.
    fn start(
        &mut self,
        first: usize,
        inputs: &Inputs<'_>,
        mut cache: Option<&mut GpuCache>,
    ) -> Result<(), (usize, LaunchError)> {
        let Self { gpu, weights, adapter, plan, memory, batch, mark, .. } = self;
        mark.reset(first as u32);
        let mut run = Run {
            cuda: gpu.cuda(),
            weights: &gpu.weights,
            config: &weights.config,
            dispatch: &gpu.dispatch,
            adapter: adapter.as_mut(),
            batch,
            memory,
            loss_scale: inputs.loss_scale,
            noise: inputs.noise,
            n: inputs.tokens.len(),
            p: inputs.positions.len(),
        };
        for (tick, op) in plan.program.ops.iter().enumerate().skip(first) {
            let started = (run.memory.begin(tick).map_err(LaunchError::from))
                .and_then(|()| run.op(op, cache.as_deref_mut()))
                .and_then(|()| Ok(mark.set(tick as u32 + 1)?));
            started.map_err(|error| (tick, error))?;
        }
        Ok(())
    }

    /// What an error means: `source` came when op `asked` was to be started, or what is done `behind` them all.
    fn fault(&self, asked: usize, source: LaunchError, behind: &str) -> GpuError {
        let name = |op: usize| self.op_names().get(op).map_or(behind, String::as_str).to_string();
        let fault = self.gpu.cuda().synchronize().err();
        match (fault, source) {
            // The device failed at something that it had been asked for before.
            (Some(_), LaunchError::Cuda(source)) => {
                let op = self.mark.value().map_or(asked, |done| done as usize);
                GpuError::Stopped { op: name(op), source }
            }
            (_, source) => GpuError::Op { op: name(asked), source },
        }
    }

    /// Copies losses or logits to the host, which waits for them.
    fn read_results(&mut self, rows: usize) -> Result<(), CudaError> {
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
        cuda.synchronize()
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
        let cuda = self.gpu.cuda();
        let Some(adapter) = &mut self.adapter else {
            return Ok(Update { grad_norm: 0.0, non_finite: None });
        };
        let update = adapter.update(cuda, hyper, max_grad_norm);
        let ops = self.op_names().len();
        Ok(update.map_err(|source| self.fault(ops, source, "the update"))?)
    }

    /// Copies the parameters to the host.
    pub fn read_params(&mut self, params: &mut [f32]) -> Result<(), EngineError> {
        if let Some(training) = self.adapter.as_ref().and_then(|a| a.training.as_ref()) {
            self.gpu.cuda().read(training.params.view(), params).map_err(GpuError::from)?;
        }
        Ok(())
    }
}
