//! Losses and logits: against the f64 model, and the same however the documents are packed,
//! buffers are placed and threads are counted.

use std::sync::Arc;

use dayrun::adapter::Adapter;
use dayrun::device::cpu::{Cpu, Element, GemmElement};
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::model::engine::{Inputs, Noise};
use dayrun::model::kv_cache::KvCache;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Engine, EngineError, Loaded};
use half::bf16;

use crate::common::{DType, Tol, assert_close, assert_same_bits};
use crate::reference::Model;
use crate::tiny::{adapter, cpu, cpus, documents, four_threads, mixed, pack, weights};

pub fn losses<E: GemmElement>(
    cpu: &Arc<Cpu>,
    weights: &Arc<Weights>,
    adapter: Option<&Adapter>,
    batch: &MicroBatch,
    placement: Placement,
) -> Vec<f32> {
    let kind = Kind::Eval { tokens: batch.tokens.len().max(1) };
    let mut engine =
        Engine::<E>::new(&Loaded::on_cpu(cpu.clone(), weights.clone()), adapter, kind, placement)
            .unwrap();
    engine.run(batch, 0.0).unwrap();
    engine.losses().to_vec()
}

/// The logits of every token of one document, through the key/value cache.
pub fn logits<E: GemmElement>(
    cpu: &Arc<Cpu>,
    weights: &Arc<Weights>,
    adapter: Option<&Adapter>,
    tokens: &[u32],
) -> Vec<f32> {
    logits_in_pieces::<E>(cpu, weights, adapter, tokens, &[tokens.len()])
}

/// The same with the document read in pieces that end at `ends`.
pub fn logits_in_pieces<E: GemmElement>(
    cpu: &Arc<Cpu>,
    weights: &Arc<Weights>,
    adapter: Option<&Adapter>,
    tokens: &[u32],
    ends: &[usize],
) -> Vec<f32> {
    let n = tokens.len();
    let loaded = Loaded::on_cpu(cpu.clone(), weights.clone());
    let kind = Kind::Generate { tokens: n, rows: n };
    let mut engine = Engine::<E>::new(&loaded, adapter, kind, Placement::Separate).unwrap();
    let mut cache = KvCache::<E>::new(&loaded, 1, n).unwrap();
    let all: Vec<u32> = (0..n as u32).collect();
    let (mut logits, mut start) = (Vec::new(), 0);
    for &end in ends {
        let cu_seqlens = [0, (end - start) as u32];
        let inputs = Inputs {
            tokens: &tokens[start..end],
            position_ids: &all[start..end],
            cu_seqlens: &cu_seqlens,
            positions: &all[..end - start],
            targets: &[],
            loss_scale: 0.0,
            noise: Noise::default(),
        };
        engine.execute(&inputs, Some(&mut cache)).unwrap();
        cache.advance(&cu_seqlens);
        logits.extend_from_slice(engine.logits());
        start = end;
    }
    logits
}

/// What the whole model may be off by. Relative to the largest logit: a layer rounds 12 values on
/// the way to the next (norm, V, q, rope, o, o_proj, residual, norm, V, gate, h, residual), each sum
/// is at most 128 + r long; gains between layers are near 1, and a peaked softmax multiplies what
/// its scores are off by with their size, here about 3.
pub fn tolerance<E: Element>(magnitude: f64) -> Tol<'static> {
    tolerance_of::<E>(12, magnitude)
}

/// The same for a layer that rounds `values` values.
pub fn tolerance_of<E: Element>(values: usize, magnitude: f64) -> Tol<'static> {
    let layers = 2;
    let tol = match DType::of::<E>() {
        DType::F32 => Tol::new(DType::F32).steps(3 * values * layers).sum_len(3 * 7 * layers * 145),
        // bf16's roundings are independent: their errors add up as a root of the sum of squares,
        // with 3 standard deviations.
        dtype => Tol::new(dtype).rounds(3 * (3.0 * (values * layers) as f64).sqrt() as usize / 2),
    };
    tol.magnitude(magnitude)
}

pub fn max_abs(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// Losses and logits of a model whose layers round `values` values, with an adapter and without.
pub fn equals_reference<E: GemmElement + Into<f64>>(weights: &Arc<Weights>, values: usize) {
    let mut adapter = adapter(&weights.config, 8, &Linear::ALL, 3);
    // Parameters as the ops see them.
    for x in &mut adapter.params {
        *x = E::from_f32(*x).to_f32();
    }
    let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
    let model = Model::new::<E>(weights);
    let docs = documents(&[40, 1, 2, 17, 70], 1);
    let batch = pack(&docs);
    for with in [None, Some(&adapter)] {
        let reference = with.map(|adapter| (adapter, &params[..]));
        let want = model.losses(&batch, reference);
        let out = model.forward(&docs[4], reference);
        let n = out.logits.len() as f64;
        let mean = out.logits.iter().sum::<f64>() / n;
        let std = (out.logits.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!(std > 1.0, "logits are too flat to test with: {std}");
        let tol = tolerance_of::<E>(values, max_abs(&out.logits));
        for cpu in cpus() {
            let got = losses::<E>(cpu, weights, with, &batch, Placement::Separate);
            assert_close(&format!("losses on {}", cpu.name()), &got, &want, tol);
            let got = logits::<E>(cpu, weights, with, &docs[4]);
            let tol = tol.cols(weights.config.vocab_size);
            assert_close(&format!("logits on {}", cpu.name()), &got, &out.logits, tol);
        }
    }
}

fn llamas_equal_reference<E: GemmElement + Into<f64>>() {
    for weights in [weights(64, true), weights(96, false), mixed(&weights(64, true))] {
        equals_reference::<E>(&weights, 12);
    }
}

#[test]
fn f32_equals_reference() {
    llamas_equal_reference::<f32>();
}

#[test]
fn bf16_equals_reference() {
    llamas_equal_reference::<bf16>();
}

/// Packed and alone: the same bits for every document, in any order of documents.
fn packing_changes_nothing<E: GemmElement>() {
    let weights = weights(64, true);
    let adapter = adapter(&weights.config, 5, &Linear::ALL, 4);
    let docs = documents(&[33, 2, 64, 65, 100, 7], 2);
    let mut reversed = docs.clone();
    reversed.reverse();
    for cpu in cpus() {
        let run = |docs: &[Vec<u32>], placement| {
            losses::<E>(cpu, &weights, Some(&adapter), &pack(docs), placement)
        };
        let alone: Vec<Vec<f32>> =
            docs.iter().map(|doc| run(std::slice::from_ref(doc), Placement::Packed)).collect();
        assert_same_bits("packed", &run(&docs, Placement::Packed), &alone.concat());
        let backwards: Vec<f32> = alone.iter().rev().flatten().copied().collect();
        assert_same_bits("packed backwards", &run(&reversed, Placement::Packed), &backwards);
        assert_same_bits("separate buffers", &run(&docs, Placement::Separate), &alone.concat());
    }
}

#[test]
fn packing_changes_nothing_in_f32() {
    packing_changes_nothing::<f32>();
}

#[test]
fn packing_changes_nothing_in_bf16() {
    packing_changes_nothing::<bf16>();
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let weights = weights(96, false);
    let mut adapter = adapter(&weights.config, 8, &Linear::ALL, 5);
    for i in 0..adapter.modules.len() {
        let range = adapter.modules[i].b_range();
        adapter.params[range].fill(0.0);
    }
    let docs = documents(&[50, 20], 3);
    for cpu in cpus() {
        for doc in &docs {
            let with = logits::<f32>(cpu, &weights, Some(&adapter), doc);
            assert_same_bits("f32 logits", &with, &logits::<f32>(cpu, &weights, None, doc));
            let with = logits::<bf16>(cpu, &weights, Some(&adapter), doc);
            assert_same_bits("bf16 logits", &with, &logits::<bf16>(cpu, &weights, None, doc));
        }
    }
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    let weights = mixed(&weights(64, false));
    let adapter = adapter(&weights.config, 17, &Linear::ALL, 6);
    let batch = pack(&documents(&[300, 100, 33], 4));
    for (pair, four) in cpus().chunks(2).zip(four_threads()) {
        let run = |cpu: &Arc<Cpu>| {
            let packed = Placement::Packed;
            let f32 = losses::<f32>(cpu, &weights, Some(&adapter), &batch, packed);
            [f32, losses::<bf16>(cpu, &weights, Some(&adapter), &batch, packed)].concat()
        };
        let one = run(&pair[0]);
        assert_same_bits("losses on 1 and 2 threads", &one, &run(&pair[1]));
        assert_same_bits("losses on 1 and 4 threads", &one, &run(&Arc::new(four)));
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let weights = weights(64, true);
    let good = pack(&documents(&[4, 4], 1));
    let mut engine = Engine::<f32>::new(
        &Loaded::on_cpu(cpu(), weights.clone()),
        None,
        Kind::Eval { tokens: 8 },
        Placement::Separate,
    )
    .unwrap();
    engine.run(&good, 1.0).unwrap();
    let losses = engine.losses().to_vec();
    type Spoil = fn(&mut MicroBatch);
    let spoil: [(&str, Spoil); 9] = [
        ("nine tokens", |b| b.tokens.push(0)),
        ("a token outside the vocabulary", |b| b.tokens[3] = 259),
        ("a position past the tables", |b| b.position_ids[3] = 600),
        ("a missing position", |b| b.position_ids.truncate(7)),
        ("a document past the end", |b| b.cu_seqlens[2] = 9),
        ("documents out of order", |b| b.cu_seqlens[1] = 9),
        ("a loss position past the end", |b| b.loss_positions[0] = 8),
        ("a target outside the vocabulary", |b| b.targets[0] = 259),
        ("a missing target", |b| b.targets.truncate(2)),
    ];
    for (name, spoil) in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(engine.run(&bad, 1.0).is_err(), "{name} was accepted");
    }
    let mut bad = good.clone();
    bad.loss_positions = vec![0; 9];
    bad.targets = vec![0; 9];
    let error = engine.run(&bad, 1.0).unwrap_err();
    assert!(matches!(error, EngineError::TooManyRows { got: 9, capacity: 8 }), "{error}");
    // The engine is as good as before.
    engine.run(&good, 1.0).unwrap();
    assert_same_bits("losses after errors", engine.losses(), &losses);
    engine.run(&MicroBatch { cu_seqlens: vec![0], ..MicroBatch::default() }, 1.0).unwrap();
    assert_eq!(engine.losses().len(), 0);
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let weights = weights(64, true);
    let wide = adapter(&crate::tiny::config(96, true), 4, &[Linear::Q], 1);
    let kind = Kind::Eval { tokens: 8 };
    let new = |adapter: &Adapter| {
        Engine::<f32>::new(
            &Loaded::on_cpu(cpu(), weights.clone()),
            Some(adapter),
            kind,
            Placement::Packed,
        )
        .err()
    };
    let error = new(&wide).unwrap().to_string();
    assert_eq!(
        error,
        "the adapter's model.layers.0.self_attn.q_proj is 64 x 96, the model's linear is 64 x 64"
    );
    let mut other = adapter(&weights.config, 4, &[Linear::Q], 1);
    other.modules[1].path = "model.layers.2.self_attn.q_proj".into();
    let error = new(&other).unwrap().to_string();
    assert!(error.contains("model.layers.2.self_attn.q_proj"), "{error}");
}
