//! The engine on the CPU: runs a program op by op on planned host memory.

use std::sync::Arc;
use std::time::Instant;

use super::config::LlamaConfig;
use super::engine::{EngineError, Inputs, Update};
use super::kv_cache::KvCache;
use super::llama::{self, Columns, Kind, LlamaProgram, Target};
use super::loaded::Loaded;
use super::lora_layout::AdapterCopy;
use super::program::Group;
use super::run::{Run, dims};
use super::weights::Weights;
use crate::adapter::Adapter;
use crate::device::cpu::{Cpu, GemmElement, chunks_mut, gemm};
use crate::device::memory::{Memory, Placement};
use crate::ops::{adamw, attention, reduce, rope};

/// One model, ready to run one kind of program. `E` is the dtype of its activations.
pub struct CpuEngine<E> {
    cpu: Arc<Cpu>,
    weights: Arc<Weights>,
    adapter: Option<AdapterCopy<E>>,
    rope: Arc<rope::Tables>,
    plan: LlamaProgram,
    kind: Kind,
    memory: Memory,
    /// f32 gradients, laid out as [`Adapter::params`]; empty unless training.
    grads: Vec<f32>,
    /// The optimizer's moments, laid out as the gradients.
    m: Vec<f32>,
    v: Vec<f32>,
    loss_rows: usize,
    /// Seconds per kind of op since the engine was made.
    times: Vec<(&'static str, f64)>,
    /// Which entry of `times` each op counts under.
    kinds: Vec<usize>,
}

impl<E: GemmElement> CpuEngine<E> {
    /// Plans and allocates everything that running will need.
    pub fn new(
        model: &Loaded,
        adapter: Option<&Adapter>,
        kind: Kind,
        placement: Placement,
    ) -> Result<Self, EngineError> {
        let (cpu, weights) = (model.cpu.clone(), model.weights.clone());
        let config = &weights.config;
        let copy = adapter.map(|adapter| AdapterCopy::new(&cpu, config, adapter)).transpose()?;
        let columns = |layer: usize, group: Group| {
            copy.as_ref().map_or(0, |copy| copy.group(layer, group).columns)
        };
        let target = Target::Cpu { element: size_of::<E>() };
        let dropout = copy.as_ref().is_some_and(|copy| copy.layout.dropout > 0.0);
        let plan = llama::build(config, kind, target, &columns, dropout);
        let memory = Memory::new(plan.program.specs(), placement);
        let positions = config.max_position_embeddings;
        let rope =
            Arc::new(rope::Tables::new(config.head_dim, &config.rope_velocities(), positions));
        // The team's scratch and this thread's, see [`super::Engine::new`].
        gemm::reserve::<E>(&cpu, longest_sum(config, kind, &columns));
        if let Kind::Train { tokens } = kind {
            gemm::reserve_long::<E>(&cpu, tokens.min(llama::LOSS_CHUNK), config.hidden_size);
        }
        let backward = if let Kind::Train { tokens } = kind { tokens } else { 0 };
        attention::reserve::<E>(&cpu, &dims(config, 0), backward)?;
        let state = match (kind, adapter) {
            (Kind::Train { .. }, Some(adapter)) => vec![0.0; adapter.params.len()],
            _ => Vec::new(),
        };
        let mut times: Vec<(&'static str, f64)> = Vec::new();
        let mut kind_of = |name: &'static str| {
            times.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                times.push((name, 0.0));
                times.len() - 1
            })
        };
        let kinds = plan.program.ops.iter().map(|op| kind_of(op.name())).collect();
        Ok(Self {
            cpu,
            weights,
            adapter: copy,
            rope,
            plan,
            kind,
            memory,
            grads: state.clone(),
            m: state.clone(),
            v: state,
            loss_rows: 0,
            times,
            kinds,
        })
    }

    /// Bytes of planned memory (activations and scratch), and of the sums of attention's backward. The scratch
    /// that each thread keeps for itself is not counted.
    pub fn planned_bytes(&self) -> usize {
        let config = &self.weights.config;
        let tokens = if let Kind::Train { tokens } = self.kind { tokens } else { 0 };
        self.memory.bytes() + attention::reserved_bytes::<E>(&self.cpu, &dims(config, 0), tokens)
    }

    /// The most tokens that one run takes.
    pub fn capacity(&self) -> usize {
        self.kind.tokens()
    }

    /// Seconds spent in each kind of op since the engine was made, in order of first use.
    pub fn times(&self) -> &[(&'static str, f64)] {
        &self.times
    }

    /// The ops' names, in the order in which they run.
    pub fn op_names(&self) -> &[String] {
        self.plan.program.names()
    }

    /// The base it runs on.
    pub fn weights(&self) -> &Arc<Weights> {
        &self.weights
    }

    /// Clips and applies the accumulated gradients to `params`, and rounds them into the working copy that
    /// the ops read. Nothing changes when a gradient is not finite.
    pub fn update(
        &mut self,
        hyper: &adamw::Hyper,
        max_grad_norm: f64,
        params: &mut [f32],
    ) -> Result<Update, EngineError> {
        let Self { cpu, grads, m, v, adapter, .. } = self;
        // Squares of finite f32 cannot overflow in f64, so a finite sum says that all are.
        let grad_norm = reduce::sum_of_squares(cpu, grads).sqrt();
        if !grad_norm.is_finite() {
            let non_finite = reduce::first_non_finite(cpu, grads);
            return Ok(Update { grad_norm: f64::NAN, non_finite });
        }
        let scale = reduce::clip_scale(grad_norm, max_grad_norm);
        adamw::step(cpu, hyper, scale, params, grads, m, v)?;
        if let Some(adapter) = adapter {
            adapter.update(cpu, params);
        }
        Ok(Update { grad_norm, non_finite: None })
    }

    /// The losses (−log p, nats) of the last run, one for each loss position.
    pub fn losses(&mut self) -> &[f32] {
        self.memory.begin(self.plan.program.end());
        let ([losses], []) = self.memory.borrow([self.plan.losses], []);
        &bytemuck::cast_slice(losses)[..self.loss_rows]
    }

    /// The logits `[rows, vocab]` of the last run of a `Kind::Generate` program.
    pub fn logits(&mut self) -> &[f32] {
        self.memory.begin(self.plan.program.end());
        let ([logits], []) = self.memory.borrow([self.plan.logits], []);
        &bytemuck::cast_slice(logits)[..self.loss_rows * self.weights.config.vocab_size]
    }

    /// Name and bytes of every buffer that the ops before `tick` have left to those from there on.
    pub fn live_before(&self, tick: usize) -> impl Iterator<Item = (&str, &[u8])> {
        let named = |(buffer, bytes)| (self.plan.program.named(buffer).0, bytes);
        self.memory.live_before(tick).map(named)
    }

    /// Rounds other parameters into the working copy that the ops read.
    pub fn set_params(&mut self, params: &[f32]) {
        if let Some(adapter) = &mut self.adapter {
            adapter.update(&self.cpu, params);
        }
    }

    /// Begins a new accumulation.
    pub fn zero_grads(&mut self) {
        self.cpu.blocks(chunks_mut(&mut self.grads, 1 << 16), |grads| grads.fill(0.0));
    }

    /// The accumulated gradients, laid out as the adapter's parameters.
    pub fn grads(&mut self) -> &mut [f32] {
        &mut self.grads
    }

    /// Runs the program. `cache` is needed by `Kind::Generate`.
    pub fn execute(
        &mut self,
        inputs: &Inputs<'_>,
        cache: Option<&mut KvCache<E>>,
    ) -> Result<(), EngineError> {
        self.execute_until(self.plan.program.end(), inputs, cache)
    }

    /// Runs the first `end` ops of the program.
    pub fn execute_until(
        &mut self,
        end: usize,
        inputs: &Inputs<'_>,
        mut cache: Option<&mut KvCache<E>>,
    ) -> Result<(), EngineError> {
        let (got, capacity) = (inputs.tokens.len(), self.capacity());
        if got > capacity {
            return Err(EngineError::TooManyTokens { got, capacity });
        }
        let rows = self.kind.rows();
        if inputs.positions.len() > rows {
            let got = inputs.positions.len();
            return Err(EngineError::TooManyRows { got, capacity: rows });
        }
        self.loss_rows = inputs.positions.len();
        let Self { cpu, weights, adapter, rope, plan, memory, grads, times, kinds, .. } = self;
        let mut run = Run {
            cpu,
            weights,
            config: &weights.config,
            adapter: adapter.as_ref(),
            rope,
            inputs,
            memory,
            grads,
            n: inputs.tokens.len(),
            p: inputs.positions.len(),
        };
        let ops = plan.program.ops[..end].iter();
        for (tick, (op, &kind)) in ops.zip(kinds.iter()).enumerate() {
            let start = Instant::now();
            run.memory.begin(tick);
            run.op(op, cache.as_deref_mut())?;
            times[kind].1 += start.elapsed().as_secs_f64();
        }
        Ok(())
    }
}

/// The longest contraction of a program: what a thread's scratch must hold.
fn longest_sum(config: &LlamaConfig, kind: Kind, columns: Columns<'_>) -> usize {
    let group = |layer: usize, group: Group| {
        let shapes = group.linears().iter().map(|linear| linear.shape(config));
        let sum: usize = shapes.map(|(n_out, n_in)| n_out.max(n_in)).sum();
        sum + columns(layer, group)
    };
    let layers = 0..config.num_hidden_layers;
    let linears = layers.flat_map(|layer| Group::ALL.map(|g| group(layer, g))).max().unwrap_or(0);
    match kind {
        // Gradients sum over tokens.
        Kind::Train { tokens } => linears.max(tokens),
        Kind::Eval { .. } | Kind::Generate { .. } => linears,
    }
}
