//! Plain LoRA over a base that is not quantised, against transformers and PEFT: tests/golden/plain, made by
//! scripts/golden_plain.py.

mod common;

use std::sync::Arc;

use common::golden::{self, GRADIENT, LOGITS, LOSS, Tensors, apart, apart_in_norm};
use common::golden::{assert_beyond, assert_within};
use common::runs::{Document, ids, logits_on, pack, wanted_gradient};
use common::tol::{bf16_gradient, logits_in_bf16};
use dayrun::adapter::{Adapter, peft};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::device::memory::Placement;
#[cfg(feature = "cuda")]
use dayrun::model::Dispatch;
#[cfg(feature = "cuda")]
use dayrun::model::cuda::Gpu;
use dayrun::model::llama::Kind;
use dayrun::model::weights::{Matrix, Weights};
use dayrun::model::{Engine, Linears, LoadOptions, Loaded, load};
use dayrun::progress::quiet;
use half::bf16;
use serde_json::Value;

const LAYERS: usize = 2;

fn weights(linears: Linears) -> Arc<Weights> {
    let options = LoadOptions { linears, ..LoadOptions::default() };
    Arc::new(load(&golden::path("plain/f32"), &options, &quiet).unwrap())
}

fn on_cpu(linears: Linears) -> Loaded {
    Loaded::on_cpu(Arc::new(Cpu::new(2)), weights(linears))
}

fn adapter(model: &Loaded) -> Adapter {
    peft::load(&golden::path("plain/adapter"), &model.weights.config, "default").unwrap()
}

fn json() -> Value {
    serde_json::from_slice(&std::fs::read(golden::path("plain/golden.json")).unwrap()).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    json()["prompts"].as_array().unwrap().iter().map(ids).collect()
}

fn documents() -> Vec<Document> {
    json()["documents"].as_array().unwrap().iter().map(Document::read).collect()
}

/// What a model says in f32 against the golden file `name`: logits with and without the adapter, losses and
/// gradients.
fn equals(model: &Loaded, name: &str) {
    let (adapter, want) = (adapter(model), Tensors::open(&format!("plain/{name}.safetensors")));
    for (i, prompt) in prompts().iter().enumerate() {
        for (kind, adapter) in [("logits", None), ("adapter", Some(&adapter))] {
            let want = want.floats(&format!("{kind}.{i}"));
            assert!(golden::std(&want) > 1.0, "logits too flat to tell");
            let got = logits_on::<f32>(model, adapter, prompt);
            assert_within(&format!("{name} {kind} {i}"), apart(&got, &want), LOGITS);
        }
    }
    let (losses, gradient) = train::<f32>(model, &adapter);
    let mut losses = losses.into_iter();
    for (i, document) in documents().iter().enumerate() {
        let got: f64 = losses.by_ref().take(document.loss_tokens()).map(f64::from).sum();
        let want = f64::from(want.floats(&format!("nll.{i}"))[0]);
        assert_within(&format!("{name} loss {i}"), (got - want).abs() / want, LOSS);
    }
    let wanted = wanted_gradient(&adapter, &want);
    for range in adapter.modules.iter().flat_map(|m| [m.a_range(), m.b_range()]) {
        let what = format!("{name} gradient of {}", adapter.tensor_at(range.start));
        let apart = apart_in_norm(&gradient[range.clone()], &wanted[range]);
        assert_within(&what, apart, GRADIENT);
    }
}

/// Losses and gradients of the mean loss of all documents, packed.
fn train<E: GemmElement>(model: &Loaded, adapter: &Adapter) -> (Vec<f32>, Vec<f32>) {
    let batch = pack(&documents());
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let mut engine = Engine::<E>::new(model, Some(adapter), kind, Placement::Separate).unwrap();
    engine.zero_grads().unwrap();
    engine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
    (engine.losses().to_vec(), engine.grads().unwrap().to_vec())
}

#[test]
fn of_a_base_in_f32() {
    let model = on_cpu(Linears::F32);
    let mut linears = model.weights.layers.iter().flat_map(|layer| &layer.linears);
    assert!(linears.all(|linear| matches!(linear, Matrix::F32(_))));
    equals(&model, "f32");
}

#[test]
fn of_a_base_in_bf16() {
    let model = on_cpu(Linears::Bf16);
    let mut linears = model.weights.layers.iter().flat_map(|layer| &layer.linears);
    assert!(linears.all(|linear| matches!(linear, Matrix::Bf16(_))));
    equals(&model, "bf16");
}

/// Quantised, rounded to bf16 where it must not be, a linear without its adapter.
#[test]
fn planted_mistakes_are_far_away() {
    let model = on_cpu(Linears::F32);
    let got = logits_on::<f32>(&model, Some(&adapter(&model)), &prompts()[3]);
    let mistakes = Tensors::open("plain/mistakes.safetensors");
    assert_eq!(mistakes.names().len(), 2);
    for name in mistakes.names() {
        assert_beyond(&name, apart(&got, &mistakes.floats(&name)), LOGITS);
    }
    let rounded = Tensors::open("plain/bf16.safetensors").floats("adapter.3");
    assert_beyond("rounded to bf16", apart(&got, &rounded), LOGITS);
}

/// In bf16, on whatever device: within bf16's roundings of what PEFT computes in f32 over the same bf16 base,
/// where the NF4 base is not.
fn in_bf16(model: &Loaded, what: &str) {
    let adapter = adapter(model);
    let want = Tensors::open("plain/bf16.safetensors");
    for (i, prompt) in prompts().iter().enumerate() {
        let want = want.floats(&format!("adapter.{i}"));
        let largest = want.iter().fold(0.0, |a: f64, &x| a.max(f64::from(x.abs())));
        let bound = logits_in_bf16(LAYERS, largest) / golden::std(&want);
        let got = logits_on::<bf16>(model, Some(&adapter), prompt);
        assert_within(&format!("{what}: logits {i}"), apart(&got, &want), bound);
        if i == 3 {
            let nf4 = Tensors::open("plain/mistakes.safetensors").floats("nf4");
            assert!(apart(&nf4, &want) > bound, "an NF4 base would pass");
        }
    }
    let (_, gradient) = train::<bf16>(model, &adapter);
    let apart = apart_in_norm(&gradient, &wanted_gradient(&adapter, &want));
    assert_within(&format!("{what}: gradient"), apart, bf16_gradient(LAYERS));
}

#[test]
fn in_bf16_on_the_cpu() {
    in_bf16(&on_cpu(Linears::Bf16), "CPU");
}

#[cfg(feature = "cuda")]
#[test]
fn in_bf16_on_a_gpu() {
    common::gpu::run("in_bf16_on_a_gpu", |cuda, bits| {
        // What is in f32 is rounded when it is uploaded.
        for linears in [Linears::Bf16, Linears::F32] {
            let weights = weights(linears);
            // The table is for weights in 4 bits.
            let table = Dispatch::all_fused(&weights.config);
            let gpu = Gpu::new(cuda, &weights, table).unwrap();
            let model = Loaded::on_gpu(Arc::new(Cpu::new(2)), weights, gpu);
            in_bf16(&model, &format!("GPU, {linears:?}"));
            bits.add(&logits_on::<bf16>(&model, Some(&adapter(&model)), &prompts()[2]));
        }
    });
}
