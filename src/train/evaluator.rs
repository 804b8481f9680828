//! Losses without gradients: perplexity before, during and after a run.

use crate::adapter::Adapter;
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::model::batch::MicroBatch;
use crate::model::llama::Kind;
use crate::model::{Engine, EngineError, Loaded};

/// A model that only computes losses; it keeps no activations for a backward pass.
pub struct Evaluator<E> {
    engine: Engine<E>,
}

impl<E: GemmElement> Evaluator<E> {
    /// Plans memory for micro-batches of at most `tokens` tokens.
    pub fn new(
        model: &Loaded,
        adapter: Option<&Adapter>,
        tokens: usize,
    ) -> Result<Self, EngineError> {
        let kind = Kind::Eval { tokens };
        Ok(Self { engine: Engine::new(model, adapter, kind, Placement::Packed)? })
    }

    /// −log p (nats) of each loss position of a micro-batch, in its order.
    pub fn losses(&mut self, batch: &MicroBatch) -> Result<&[f32], EngineError> {
        self.engine.run(batch, 0.0)?;
        Ok(self.engine.losses())
    }
}
