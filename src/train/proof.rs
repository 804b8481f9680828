//! A run proves itself before it spends hours, because in this field failures are silent.

use crate::adapter::{Adapter, LoraModule};
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::model::batch::MicroBatch;
use crate::model::engine::{Inputs, Noise};
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
            Self::Engine(e) => return e.hint(),
            Self::Logits { .. } => "the base model's weights are damaged",
            Self::DeadTensor { tensor, .. } if is_score(tensor) => {
                "either every document repeats one token, so that attention has nothing to \
                 choose (look at the data), or this is a mistake in dayrun: please report it"
            }
            Self::DeadTensor { .. } => {
                "it would not have learned anything: this is a mistake in dayrun, please report it"
            }
            _ => "this is a mistake in dayrun, please report it",
        };
        Some(text.into())
    }
}

/// Checks that an adapter whose B is zero gives the base's own logits, bit for bit, on
/// `documents`.
pub fn fresh_adapter_changes_nothing<E: GemmElement>(
    base: &Base,
    adapter: &Adapter,
    documents: &[&[u32]],
) -> Result<(), ProofError> {
    let with = logits::<E>(base, Some(adapter), documents)?;
    let without = logits::<E>(base, None, documents)?;
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

/// The logits of all tokens of `documents`.
fn logits<E: GemmElement>(
    base: &Base,
    adapter: Option<&Adapter>,
    documents: &[&[u32]],
) -> Result<Vec<f32>, EngineError> {
    let tokens = documents.concat();
    let n = tokens.len();
    let longest = documents.iter().map(|d| d.len()).max().unwrap_or(0);
    let kind = Kind::Generate { tokens: n, rows: n };
    let model = base.model();
    let mut engine = Engine::<E>::new(&model, adapter, kind, Placement::Packed)?;
    let mut cache = KvCache::<E>::new(&model, documents.len(), longest)?;
    let position_ids: Vec<u32> = documents.iter().flat_map(|d| 0..d.len() as u32).collect();
    let positions: Vec<u32> = (0..n as u32).collect();
    let mut cu_seqlens = vec![0];
    for document in documents {
        cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + document.len() as u32);
    }
    let inputs = Inputs {
        tokens: &tokens,
        position_ids: &position_ids,
        cu_seqlens: &cu_seqlens,
        positions: &positions,
        targets: &[],
        loss_scale: 0.0,
        noise: Noise::default(),
    };
    engine.execute(&inputs, Some(&mut cache))?;
    Ok(engine.logits().to_vec())
}

/// Watches the first updates: every trainable tensor must have had a gradient that is not zero.
///
/// A fresh B of zero makes dA exactly zero in the first update. From the update after the first
/// one with a non-zero rate on, B is no longer zero and A has no excuse. Queries and keys have one
/// more: where a token sees one key only, its softmax is 1 whatever the score is, so that updates
/// of two-token documents alone do not judge them. (That every gradient is finite is checked in
/// every step by the trainer.)
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
        let both = |module: &LoraModule| {
            [
                (format!("{}.lora_A.weight", module.path), module.a_range()),
                (format!("{}.lora_B.weight", module.path), module.b_range()),
            ]
        };
        Self { waiting: adapter.modules.iter().flat_map(both).collect(), moved: 0, steps: 0 }
    }

    /// Whether later updates have nothing more to show.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// After an update: its gradients before clipping, its rate, and whether a token with loss
    /// saw two keys or more (see [`attends`]).
    pub fn saw(&mut self, gradients: &[f32], lr: f64, attends: bool) -> Result<(), ProofError> {
        self.steps += 1;
        self.waiting.retain(|(_, range)| gradients[range.clone()].iter().all(|g| *g == 0.0));
        let due = self.moved >= 1;
        self.moved += u64::from(lr != 0.0);
        match self.waiting.iter().find(|(tensor, _)| attends || !is_score(tensor)) {
            Some((tensor, _)) if due => {
                Err(ProofError::DeadTensor { tensor: tensor.clone(), steps: self.steps })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a tensor acts on attention scores alone.
fn is_score(tensor: &str) -> bool {
    [".q_proj.", ".k_proj."].iter().any(|name| tensor.contains(name))
}

/// Whether a token with loss stands behind another one of its document.
pub fn attends(batches: &[MicroBatch]) -> bool {
    let one = |b: &MicroBatch| b.loss_positions.iter().any(|&p| b.position_ids[p as usize] > 0);
    batches.iter().any(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::LoraConfig;

    fn adapter() -> Adapter {
        adapter_of(["m.0.x", "m.1.x"])
    }

    fn adapter_of(paths: [&str; 2]) -> Adapter {
        let module = |path: &str, a| LoraModule {
            path: path.into(),
            in_features: 2,
            out_features: 1,
            r: 1,
            scale: 1.0,
            a,
            b: a + 2,
        };
        Adapter {
            config: LoraConfig::default(),
            modules: vec![module(paths[0], 0), module(paths[1], 3)],
            params: vec![0.0; 6],
        }
    }

    #[test]
    fn a_may_be_still_in_the_first_update_and_not_in_the_second() {
        let mut watch = GradientWatch::new(&adapter());
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3, true).expect("dA is zero while B is");
        assert!(!watch.is_done());
        watch.saw(&[0.0, 1.0, 0.0, 1.0, 0.0, 0.0], 1e-3, true).expect("all have moved");
        assert!(watch.is_done());
    }

    #[test]
    fn the_dead_tensor_is_named() {
        let mut watch = GradientWatch::new(&adapter());
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3, true).unwrap();
        let error =
            watch.saw(&[1.0, 1.0, 1.0, 0.0, 0.0, 1.0], 1e-3, true).expect_err("A of m.1 is dead");
        assert_eq!(
            error.to_string(),
            "after 2 updates `m.1.x.lora_A.weight` has had no gradient at all"
        );
    }

    #[test]
    fn updates_without_a_rate_prove_nothing() {
        let mut watch = GradientWatch::new(&adapter());
        for _ in 0..5 {
            watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.0, true).expect("B is still zero");
        }
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 1e-3, true).expect("B moves only now");
        watch.saw(&[0.0, 0.0, 1.0, 0.0, 0.0, 1.0], 0.0, true).expect_err("A is dead");
    }

    #[test]
    fn queries_are_not_judged_where_there_is_one_key_only() {
        let mut watch = GradientWatch::new(&adapter_of(["m.0.q_proj", "m.1.x"]));
        for _ in 0..20 {
            watch.saw(&[0.0, 0.0, 0.0, 1.0, 0.0, 1.0], 1e-3, false).expect("nothing to choose");
        }
        let error = watch.saw(&[0.0; 6], 1e-3, true).expect_err("two keys, and no gradient");
        assert!(error.to_string().contains("q_proj"), "{error}");
        assert!(error.hint().expect("advice").contains("either"));
        // Other tensors have no such excuse.
        let mut watch = GradientWatch::new(&adapter_of(["m.0.v_proj", "m.1.x"]));
        watch.saw(&[0.0, 0.0, 1.0, 1.0, 0.0, 1.0], 1e-3, false).unwrap();
        watch.saw(&[0.0; 6], 1e-3, false).expect_err("v_proj is dead");
    }

    #[test]
    fn a_loss_behind_the_first_token_attends() {
        let mut batch = MicroBatch {
            tokens: vec![1, 2, 3, 4],
            position_ids: vec![0, 1, 0, 1],
            cu_seqlens: vec![0, 2, 4],
            loss_positions: vec![0, 2],
            targets: vec![2, 4],
        };
        assert!(!attends(std::slice::from_ref(&batch)));
        batch.loss_positions[1] = 3;
        assert!(attends(std::slice::from_ref(&batch)));
    }
}
