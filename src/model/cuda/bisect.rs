//! Finding a wrong result: the CPU runs the ops of a training program before a named one, the GPU from there.
//!
//! If the result is right with the GPU from op k on and wrong from k - 1 on, the mistake is in op k - 1.

use half::bf16;

use super::adapter::GpuAdapter;
use super::error::GpuError;
use crate::adapter::Adapter;
use crate::device::cuda::{Cuda, Memory};
use crate::device::memory::{Buffer, Placement};
use crate::model::cpu::CpuEngine;
use crate::model::dispatch::Dispatch;
use crate::model::engine::{EngineError, Inputs};
use crate::model::llama::Kind;
use crate::model::loaded::Loaded;
use crate::model::lora_layout::AdapterLayout;
use crate::model::program::Program;
use crate::model::weights::Weights;

/// The CPU's part of a program.
pub struct Bisect {
    cpu: CpuEngine<bf16>,
    /// The first op of the GPU.
    first: usize,
    /// The GPU's buffers by the CPU's names, where both are as large.
    buffers: Vec<(String, Buffer, usize)>,
    params: Vec<f32>,
}

impl Bisect {
    /// # Errors
    /// [`GpuError::UnknownOp`] with the nearest names.
    pub fn new(
        model: &Loaded,
        adapter: Option<&Adapter>,
        kind: Kind,
        program: &Program,
        until: &str,
    ) -> Result<Self, EngineError> {
        let first = position(program.names(), until)?;
        let cpu = CpuEngine::new(model, adapter, kind, Placement::Separate)?;
        let buffers = program.buffers().map(|buffer| {
            let (name, bytes) = program.named(buffer);
            (name.to_string(), buffer, bytes)
        });
        let params = adapter.map_or(Vec::new(), |adapter| adapter.params.clone());
        Ok(Self { cpu, first, buffers: buffers.collect(), params })
    }

    /// Runs the CPU's part and uploads all that the rest needs. Returns the first op of the GPU.
    pub fn run(
        &mut self,
        cuda: &Cuda,
        inputs: &Inputs<'_>,
        memory: &mut Memory,
        adapter: Option<&mut GpuAdapter>,
    ) -> Result<usize, EngineError> {
        let mut training = adapter.and_then(|adapter| adapter.training.as_mut());
        if let Some(training) = &mut training {
            cuda.read(training.params.view(), &mut self.params).map_err(GpuError::from)?;
            self.cpu.set_params(&self.params);
            cuda.read(training.grads.view(), self.cpu.grads()).map_err(GpuError::from)?;
        }
        self.cpu.execute_until(self.first, inputs, None)?;
        if let Some(training) = training {
            cuda.write(&mut training.grads.view_mut(), self.cpu.grads()).map_err(GpuError::from)?;
        }
        for (name, data) in self.cpu.live_before(self.first) {
            // Scratch has other sizes on other devices, and nothing to hand over.
            let same = |(known, _, bytes): &&(String, Buffer, usize)| {
                known == name && *bytes == data.len()
            };
            if let Some((_, buffer, _)) = self.buffers.iter().find(same) {
                memory.write(*buffer, data).map_err(GpuError::from)?;
            }
        }
        Ok(self.first)
    }
}

/// Checks that a training program of `adapter` has the op `until`, and logs the names that there are, in the
/// order in which they run.
///
/// # Errors
/// [`GpuError::UnknownOp`] with the nearest names; an adapter of another model.
pub fn check_op(weights: &Weights, adapter: &Adapter, until: &str) -> Result<(), EngineError> {
    let config = &weights.config;
    let layout = AdapterLayout::new(config, adapter)?;
    let (kind, dispatch) = (Kind::Train { tokens: 1 }, Dispatch::all_fused(config));
    let plan = super::needs::program(weights, kind, &dispatch, Some(&layout));
    let names = plan.program.names();
    for (i, name) in names.iter().enumerate() {
        tracing::debug!("op {i} of {}: {name}", names.len());
    }
    Ok(position(names, until).map(drop)?)
}

/// Where an op stands.
fn position(names: &[String], wanted: &str) -> Result<usize, GpuError> {
    /// How many near names an error tells.
    const NEAR: usize = 4;
    names.iter().position(|name| name == wanted).ok_or_else(|| {
        let mut near: Vec<(f64, &String)> =
            names.iter().map(|name| (strsim::jaro_winkler(name, wanted), name)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near = near.into_iter().take(NEAR).map(|(_, name)| name.clone()).collect();
        GpuError::UnknownOp { name: wanted.to_string(), near }
    })
}
