//! A small model of every family against transformers and PEFT, in f32: tests/golden/families, made by
//! scripts/golden_families.py.

mod common;

use std::sync::Arc;

use common::golden::{self, GRADIENT, LOGITS, LOSS, Tensors, apart, apart_in_norm};
use common::golden::{assert_beyond, assert_within};
use common::runs::{Document, ids, logits_on, pack, wanted_gradient};
use dayrun::adapter::{Adapter, peft};
use dayrun::device::cpu::Cpu;
use dayrun::device::memory::Placement;
#[cfg(feature = "gguf")]
use dayrun::model::Linears;
use dayrun::model::family::LayerKind;
use dayrun::model::llama::Kind;
use dayrun::model::rope_scaling::RopeScaling;
use dayrun::model::weights::Weights;
use dayrun::model::{Engine, LoadOptions, Loaded, load};
use dayrun::progress::quiet;
use serde_json::Value;

const FAMILIES: [&str; 7] =
    ["llama3", "llama-linear", "mistral", "qwen2", "qwen2-sliding", "qwen3", "smollm3"];

/// One family's directory.
struct Golden {
    name: &'static str,
    json: Value,
    tensors: Tensors,
}

impl Golden {
    fn all() -> impl Iterator<Item = Golden> {
        FAMILIES.into_iter().map(|name| {
            let file = golden::path(&format!("families/{name}/golden.json"));
            Golden {
                name,
                json: serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap(),
                tensors: Tensors::open(&format!("families/{name}/golden.safetensors")),
            }
        })
    }

    fn load(&self, file: &str) -> Arc<Weights> {
        let path = golden::path(&format!("families/{}/{file}", self.name));
        Arc::new(load(&path, &LoadOptions::default(), &quiet).unwrap())
    }

    fn model(&self) -> Loaded {
        Loaded::on_cpu(Arc::new(Cpu::new(2)), self.load("bnb"))
    }

    fn adapter(&self, model: &Loaded) -> Adapter {
        let dir = golden::path(&format!("families/{}/adapter", self.name));
        peft::load(&dir, &model.weights.config, self.name).unwrap()
    }

    fn prompts(&self) -> Vec<Vec<u32>> {
        self.json["prompts"].as_array().unwrap().iter().map(ids).collect()
    }

    fn documents(&self) -> Vec<Document> {
        self.json["documents"].as_array().unwrap().iter().map(Document::read).collect()
    }
}

#[test]
fn logits() {
    for golden in Golden::all() {
        let model = golden.model();
        let adapter = golden.adapter(&model);
        for (i, prompt) in golden.prompts().iter().enumerate() {
            for (kind, adapter) in [("logits", None), ("adapter", Some(&adapter))] {
                let want = golden.tensors.floats(&format!("{kind}.{i}"));
                let got = logits_on::<f32>(&model, adapter, prompt);
                assert!(golden::std(&want) > 1.0, "{}: logits too flat to tell", golden.name);
                let what = format!("{} {kind} {i}", golden.name);
                assert_within(&what, apart(&got, &want), LOGITS);
            }
        }
    }
}

/// No q/k norm, no bias, the window off by one, scaling left out, rope in a layer without it, and others.
#[test]
fn planted_mistakes_are_far_away() {
    for golden in Golden::all() {
        let model = golden.model();
        let adapter = golden.adapter(&model);
        let prompt = &golden.prompts()[3];
        let got = logits_on::<f32>(&model, Some(&adapter), prompt);
        let names = golden.tensors.names().into_iter().filter(|name| name.starts_with("mistake."));
        let names: Vec<String> = names.collect();
        assert!(names.len() >= 2, "{}: {names:?}", golden.name);
        for name in names {
            let wrong = golden.tensors.floats(&name);
            assert_beyond(&format!("{} {name}", golden.name), apart(&got, &wrong), LOGITS);
        }
    }
}

/// Packed, and each document's own loss.
#[test]
fn losses_and_gradients_of_packed_documents() {
    for golden in Golden::all() {
        let model = golden.model();
        let adapter = golden.adapter(&model);
        let documents = golden.documents();
        let batch = pack(&documents);
        let kind = Kind::Train { tokens: batch.tokens.len() };
        let mut engine =
            Engine::<f32>::new(&model, Some(&adapter), kind, Placement::Separate).unwrap();
        engine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
        let mut losses = engine.losses().iter().map(|&loss| f64::from(loss));
        for (i, document) in documents.iter().enumerate() {
            let got: f64 = losses.by_ref().take(document.loss_tokens()).sum();
            let want = f64::from(golden.tensors.floats(&format!("nll.{i}"))[0]);
            let what = format!("{} loss {i}", golden.name);
            assert_within(&what, (got - want).abs() / want, LOSS);
        }
        let wanted = wanted_gradient(&adapter, &golden.tensors);
        let got = engine.grads().unwrap().to_vec();
        let what = format!("{} gradient", golden.name);
        assert_within(&what, apart_in_norm(&got, &wanted), GRADIENT);
        for module in &adapter.modules {
            for range in [module.a_range(), module.b_range()] {
                let apart = apart_in_norm(&got[range.clone()], &wanted[range]);
                assert_within(&format!("{} {}", golden.name, module.path), apart, GRADIENT);
            }
        }
    }
}

/// What each one's configuration says, read from config.json.
#[test]
fn what_makes_each_family() {
    let llama = LayerKind::LLAMA;
    let window = LayerKind { sliding_window: Some(12), ..llama };
    for golden in Golden::all() {
        let config = golden.load("bnb").config.clone();
        let differences = &config.differences;
        let biases = (differences.qkv_bias, differences.o_bias);
        let layers: Vec<LayerKind> =
            (0..config.num_hidden_layers).map(|i| config.layer(i)).collect();
        let no_rope = LayerKind { rope: false, ..llama };
        let (want_biases, qk_norm, want_layers) = match golden.name {
            "llama-linear" => ((true, true), false, vec![llama, llama]),
            "mistral" => ((false, false), false, vec![window, window]),
            "qwen2" => ((true, false), false, vec![llama, llama]),
            "qwen2-sliding" => ((true, false), false, vec![llama, window]),
            "qwen3" => ((false, false), true, vec![llama, llama]),
            "smollm3" => ((false, false), false, vec![llama, llama, llama, no_rope]),
            _ => ((false, false), false, vec![llama, llama]),
        };
        assert_eq!(biases, want_biases, "{}", golden.name);
        assert_eq!(differences.qk_norm, qk_norm, "{}", golden.name);
        assert_eq!(layers, want_layers, "{}", golden.name);
        match golden.name {
            "llama3" => assert!(matches!(differences.rope_scaling, RopeScaling::Llama3 { .. })),
            "llama-linear" => {
                assert_eq!(differences.rope_scaling, RopeScaling::Linear { factor: 4.0 });
            }
            _ => assert_eq!(differences.rope_scaling, RopeScaling::None, "{}", golden.name),
        }
    }
}

/// The `gguf` package's files, permuted or not as llama.cpp's converter has each family, in the activations' own
/// type: the logits of the weights before quantisation.
#[cfg(feature = "gguf")]
#[test]
fn logits_of_gguf_files() {
    for golden in Golden::all().filter(|golden| golden.name != "qwen2-sliding") {
        let path = golden::path(&format!("families/{}/model.gguf", golden.name));
        let options = LoadOptions { linears: Linears::F32, ..LoadOptions::default() };
        let weights = Arc::new(load(&path, &options, &quiet).unwrap());
        let model = Loaded::on_cpu(Arc::new(Cpu::new(2)), weights);
        for (i, prompt) in golden.prompts().iter().enumerate() {
            let want = golden.tensors.floats(&format!("plain.{i}"));
            let got = logits_on::<f32>(&model, None, prompt);
            assert_within(&format!("{} GGUF {i}", golden.name), apart(&got, &want), LOGITS);
        }
    }
}

/// The `gguf` package's file of the same weights has the same configuration.
#[cfg(feature = "gguf")]
#[test]
fn gguf_has_the_same_configuration() {
    for golden in Golden::all().filter(|golden| golden.name != "qwen2-sliding") {
        let (hub, mut gguf) =
            (golden.load("bnb").config.clone(), golden.load("model.gguf").config.clone());
        // GGUF keeps it in f32, and Llama 3's scaling as factors.
        assert_eq!(hub.rms_norm_eps as f32, gguf.rms_norm_eps as f32);
        gguf.rms_norm_eps = hub.rms_norm_eps;
        for (hub, gguf) in hub.rope_velocities().iter().zip(gguf.rope_velocities()) {
            let apart = (hub - gguf).abs() / hub;
            // A factor is made by some eight operations in f32.
            let bound = 8.0 * f64::from(f32::EPSILON);
            assert_within(&format!("{} velocity", golden.name), apart, bound);
        }
        gguf.differences.rope_scaling = hub.differences.rope_scaling.clone();
        for i in 0..hub.num_hidden_layers {
            assert_eq!(hub.layer(i), gguf.layer(i), "{}", golden.name);
        }
        gguf.differences.layers = hub.differences.layers.clone();
        assert_eq!(hub, gguf, "{}", golden.name);
    }
}
