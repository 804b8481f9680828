//! Whole models against golden files: documents, and what an engine makes of them.

use dayrun::adapter::Adapter;
use dayrun::device::cpu::GemmElement;
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::engine::{Inputs, Noise};
use dayrun::model::kv_cache::KvCache;
use dayrun::model::llama::Kind;
use dayrun::model::{Engine, Loaded};
use serde_json::Value;

use super::golden::Tensors;

/// A list of token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// One document: its tokens and the mask of those that are predicted.
pub struct Document {
    pub ids: Vec<u32>,
    pub mask: Vec<bool>,
}

impl Document {
    /// As the golden scripts write them.
    pub fn read(value: &Value) -> Document {
        Document {
            ids: ids(&value["ids"]),
            mask: ids(&value["loss_mask"]).into_iter().map(|m| m == 1).collect(),
        }
    }

    /// How many of its tokens are predicted.
    pub fn loss_tokens(&self) -> usize {
        (1..self.ids.len()).filter(|&t| self.mask[t]).count()
    }
}

/// Packs documents into one micro-batch.
pub fn pack<'a>(documents: impl IntoIterator<Item = &'a Document>) -> MicroBatch {
    let mut batch = MicroBatch { cu_seqlens: vec![0], ..Default::default() };
    for Document { ids, mask } in documents {
        let start = batch.tokens.len();
        batch.tokens.extend(ids);
        batch.position_ids.extend(0..ids.len() as u32);
        batch.cu_seqlens.push(batch.tokens.len() as u32);
        for t in (1..ids.len()).filter(|&t| mask[t]) {
            batch.loss_positions.push((start + t - 1) as u32);
            batch.targets.push(ids[t]);
        }
    }
    batch
}

/// Logits at every position of one prompt.
pub fn logits_on<E: GemmElement>(
    model: &Loaded,
    adapter: Option<&Adapter>,
    prompt: &[u32],
) -> Vec<f32> {
    let n = prompt.len();
    let kind = Kind::Generate { tokens: n, rows: n };
    let mut engine = Engine::<E>::new(model, adapter, kind, Placement::Separate).unwrap();
    let mut cache = KvCache::new(model, 1, n).unwrap();
    let positions: Vec<u32> = (0..n as u32).collect();
    let inputs = Inputs {
        tokens: prompt,
        position_ids: &positions,
        cu_seqlens: &[0, n as u32],
        positions: &positions,
        targets: &[],
        loss_scale: 1.0,
        noise: Noise::default(),
    };
    engine.execute(&inputs, Some(&mut cache)).unwrap();
    engine.logits().to_vec()
}

/// The gradients of every module, as the golden scripts name them.
pub fn wanted_gradient(adapter: &Adapter, want: &Tensors) -> Vec<f32> {
    let mut all = vec![f32::NAN; adapter.params.len()];
    for module in &adapter.modules {
        for (part, range) in [("lora_A", module.a_range()), ("lora_B", module.b_range())] {
            let name = format!("grad.{}.{part}", module.path);
            all[range].copy_from_slice(&want.floats(&name));
        }
    }
    all
}
