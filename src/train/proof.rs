//! A run proves itself before it spends hours, because in this field failures are silent.

use crate::adapter::{Adapter, LoraModule};
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::model::engine::Inputs;
use crate::model::kv_cache::KvCache;
use crate::model::llama::Kind;
use crate::model::{Engine, EngineError};

use super::Base;

/// The run is not what it seems to be.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("proving the run: {0}")]
    Engine(#[from] EngineError),
    #[error(
        "a fresh adapter changes the model: logit {logit} of token {position} is {with} with it \
         and {without} without"
    )]
    FreshAdapter { position: usize, logit: usize, with: f32, without: f32 },
    #[error("the model's logits hold {value} at token {position} before any training")]
    Logits { position: usize, value: f32 },
    #[error("after {steps} updates `{tensor}` has had no gradient at all")]
    DeadTensor { tensor: String, steps: u64 },
    #[error("the saved adapter does not read back as it was: {what} differs")]
    SavedAdapter { what: &'static str },
}

impl ProofError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Engine(_) => return None,
            Self::Logits { .. } => "the base model's weights are damaged",
            Self::DeadTensor { .. } => {
                "it would not have learned anything: this is a mistake in dayrun, please report it"
            }
            _ => "this is a mistake in dayrun, please report it",
        };
        Some(text.into())
    }
}

/// Checks that an adapter whose B is zero gives the base's own logits, bit for bit, on `tokens`.
pub fn fresh_adapter_changes_nothing<E: GemmElement>(
    base: &Base,
    adapter: &Adapter,
    tokens: &[u32],
) -> Result<(), ProofError> {
    let with = logits::<E>(base, Some(adapter), tokens)?;
    let without = logits::<E>(base, None, tokens)?;
    let vocab = base.weights.config.vocab_size;
    for (i, (&with, &without)) in with.iter().zip(&without).enumerate() {
        let (position, logit) = (i / vocab, i % vocab);
        if !without.is_finite() {
            return Err(ProofError::Logits { position, value: without });
        }
        if with.to_bits() != without.to_bits() {
            return Err(ProofError::FreshAdapter { position, logit, with, without });
        }
    }
    Ok(())
}

/// The logits of all of `tokens`.
fn logits<E: GemmElement>(
    base: &Base,
    adapter: Option<&Adapter>,
    tokens: &[u32],
) -> Result<Vec<f32>, EngineError> {
    let n = tokens.len();
    let kind = Kind::Generate { tokens: n, rows: n };
    let (cpu, weights) = (base.cpu.clone(), base.weights.clone());
    let mut engine = Engine::<E>::new(cpu, weights, adapter, kind, Placement::Packed)?;
    let mut cache = KvCache::<E>::new(&base.weights.config, 1, n);
    let places: Vec<u32> = (0..n as u32).collect();
    let inputs = Inputs {
        tokens,
        position_ids: &places,
        cu_seqlens: &[0, n as u32],
        positions: &places,
        targets: &[],
        loss_scale: 0.0,
    };
    engine.execute(&inputs, Some(&mut cache))?;
    Ok(engine.logits().to_vec())
}

/// Watches the first updates: every trainable tensor must have had a gradient that is not zero.
///
/// A fresh B of zero makes dA exactly zero in the first update. From the update after the first
/// one with a non-zero rate on, B is no longer zero and A has no excuse. (That every gradient is
/// finite is checked in every step by the trainer.)
pub struct GradientWatch {
    /// A name and a range of the flat parameters for each tensor that has had none yet.
    waiting: Vec<(String, std::ops::Range<usize>)>,
    /// Updates with a non-zero rate so far.
    moved: u64,
    steps: u64,
}

impl GradientWatch {
    /// Starts before the first update.
    pub fn new(adapter: &Adapter) -> Self {
        let r = adapter.config.r;
        let both = |module: &LoraModule| {
            [
                (format!("{}.lora_A.weight", module.path), module.a_range(r)),
                (format!("{}.lora_B.weight", module.path), module.b_range(r)),
            ]
        };
        Self { waiting: adapter.modules.iter().flat_map(both).collect(), moved: 0, steps: 0 }
    }

    /// Whether later updates have nothing more to show.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// After an update: its gradients before clipping, and its rate.
    pub fn saw(&mut self, gradients: &[f32], lr: f64) -> Result<(), ProofError> {
        self.steps += 1;
        self.waiting.retain(|(_, range)| gradients[range.clone()].iter().all(|g| *g == 0.0));
        let due = self.moved >= 1;
        self.moved += u64::from(lr != 0.0);
        match self.waiting.first() {
            Some((tensor, _)) if due => {
                Err(ProofError::DeadTensor { tensor: tensor.clone(), steps: self.steps })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::LoraConfig;

    fn adapter() -> Adapter {
        let module = |path: &str, a| LoraModule {
            path: path.into(),
            in_features: 2,
            out_features: 1,
            a,
            b: a + 2,
        };
        Adapter {
            config: LoraConfig {
                r: 1,
                lora_alpha: 1.0,
                use_rslora: false,
                target_modules: vec!["x".into()],
            },
            modules: vec![module("m.0.x", 0), module("m.1.x", 3)],
            params: vec![0.0; 6],
        }
    }

    #[test]
    fn a_may_be_still_in_the_first_update_and_not_in_the_second() {
        let mut watch = GradientWatch::new(&adapter());
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3).expect("dA is zero while B is");
        assert!(!watch.is_done());
        watch.saw(&[0.0, 1.0, 0.0, 1.0, 0.0, 0.0], 1e-3).expect("all have moved");
        assert!(watch.is_done());
    }

    #[test]
    fn the_dead_tensor_is_named() {
        let mut watch = GradientWatch::new(&adapter());
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3).unwrap();
        let error = watch.saw(&[1.0, 1.0, 1.0, 0.0, 0.0, 1.0], 1e-3).expect_err("A of m.1 is dead");
        assert_eq!(
            error.to_string(),
            "after 2 updates `m.1.x.lora_A.weight` has had no gradient at all"
        );
    }

    #[test]
    fn updates_without_a_rate_prove_nothing() {
        let mut watch = GradientWatch::new(&adapter());
        for _ in 0..5 {
            watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.0).expect("B is still zero");
        }
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3).expect("B moves only now");
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.0).expect_err("A is dead");
    }
}
