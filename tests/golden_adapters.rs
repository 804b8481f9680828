//! Every kind of LoRA configuration against PEFT: tests/golden/adapters, made by scripts/golden_adapters.py.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::golden::{self, GRADIENT, LOGITS, Tensors, apart, apart_in_norm};
use common::golden::{assert_beyond, assert_within};
use common::runs::{Document, ids, logits_on, pack, wanted_gradient};
use dayrun::adapter::peft::{self, BaseModel};
use dayrun::adapter::{Adapter, LoraModule};
use dayrun::config;
use dayrun::device::cpu::Cpu;
use dayrun::device::memory::Placement;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Engine, LoadOptions, Loaded, load};
use dayrun::progress::quiet;
use serde_json::Value;

/// The kinds, and the keys of [lora] that make the same.
const KINDS: [(&str, &[&str]); 7] = [
    (
        "patterns",
        &[
            "r = 4",
            "lora_alpha = 6",
            "target_modules = ['q_proj', 'k_proj', 'v_proj', 'up_proj', 'down_proj']",
            "rank_pattern = { 'layers.1.self_attn.q_proj' = 2, q_proj = 17, '^model.layers.0.*down_proj' = 3 }",
            "alpha_pattern = { k_proj = 5, 'layers\\.[1-9]\\.mlp\\..*' = 12 }",
        ],
    ),
    (
        "patterns-rslora",
        &[
            "r = 4",
            "lora_alpha = 6",
            "use_rslora = true",
            "target_modules = ['v_proj', 'o_proj', 'gate_proj']",
            "rank_pattern = { v_proj = 2 }",
            "alpha_pattern = { '1.self_attn.o_proj' = 3 }",
        ],
    ),
    (
        "expression",
        &["r = 3", "lora_alpha = 6", r"target_modules = '.*\.layers\.(?!1\.)\d+\..*(?<!o)_proj'"],
    ),
    (
        "layers",
        &[
            "r = 3",
            "lora_alpha = 6",
            "target_modules = ['q_proj', 'mlp.up_proj', 'model.layers.0.mlp.down_proj']",
            "layers_to_transform = 1",
            "layers_pattern = 'layers'",
        ],
    ),
    (
        "excluded",
        &[
            "r = 3",
            "lora_alpha = 6",
            "target_modules = ['q_proj', 'v_proj', 'gate_proj']",
            "exclude_modules = ['0.self_attn.q_proj', 'v_proj']",
        ],
    ),
    (
        "excluded-expression",
        &["r = 3", "lora_alpha = 6", r"exclude_modules = '.*(mlp|layers\.0)\..*'"],
    ),
    ("dropout-eva", &["r = 2", "lora_alpha = 4", "target_modules = ['up_proj']"]),
];

fn weights() -> Arc<Weights> {
    Arc::new(load(&golden::path("tiny/bnb"), &LoadOptions::default(), &quiet).unwrap())
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden::path(name)).unwrap()).unwrap()
}

/// The logits at every position of the prompt that the golden files are for.
fn logits(weights: &Arc<Weights>, adapter: &Adapter) -> Vec<f32> {
    let prompt = ids(&json("tiny/golden.json")["prompts"][2]);
    logits_on::<f32>(
        &Loaded::on_cpu(Arc::new(Cpu::new(1)), weights.clone()),
        Some(adapter),
        &prompt,
    )
}

fn golden_dir(kind: &str) -> PathBuf {
    golden::path("adapters").join(kind)
}

fn adapter_of_kind(weights: &Weights, kind: &str) -> Adapter {
    peft::load(&golden_dir(kind), &weights.config, "tiny").unwrap()
}

/// The adapter that the run file's keys make.
fn made_here(weights: &Weights, keys: &[&str]) -> Adapter {
    let text = format!("[model]\npath = 'm'\n[data]\ntrain = 't'\n[lora]\n{}\n", keys.join("\n"));
    let (run, _) = config::parse(&text, "run.toml".as_ref(), &[]).expect(&text);
    // What the run directory keeps of it makes the same.
    let (again, _) = config::parse(&run.resolved(), "run.toml".as_ref(), &[]).expect("resolved");
    assert_eq!(again, run);
    Adapter::new(run.lora.config(), &weights.config, 0).expect(&text)
}

#[test]
fn modules_ranks_and_scales_of_every_kind() {
    let (weights, table) = (weights(), json("adapters/modules.json"));
    assert_eq!(table.as_object().unwrap().len(), KINDS.len());
    for (kind, keys) in KINDS {
        let want = table[kind].as_object().unwrap();
        let adapter = adapter_of_kind(&weights, kind);
        assert_eq!(adapter.modules.len(), want.len(), "{kind}");
        for LoraModule { path, r, scale, .. } in &adapter.modules {
            let want = &want[path];
            assert_eq!(*r as u64, want[0].as_u64().unwrap(), "{kind} {path}");
            assert_eq!(*scale, want[1].as_f64().unwrap() as f32, "{kind} {path}");
        }
        assert_eq!(made_here(&weights, keys).modules, adapter.modules, "{kind}");
    }
}

#[test]
fn logits_of_every_kind() {
    let weights = weights();
    for (kind, _) in KINDS {
        let got = logits(&weights, &adapter_of_kind(&weights, kind));
        let want = Tensors::open(&format!("adapters/{kind}.safetensors")).floats("logits");
        assert_within(&format!("{kind} logits"), apart(&got, &want), LOGITS);
    }
}

/// One module's scale wrong, patterns ignored, one scale for all modules that share an input.
#[test]
fn planted_mistakes_of_scale_are_far_away() {
    let weights = weights();
    let mistakes = Tensors::open("adapters/mistakes.safetensors");
    assert_eq!(mistakes.names().len(), 4);
    for name in mistakes.names() {
        let kind = name.split_once('.').expect("KIND.MISTAKE").0;
        let got = logits(&weights, &adapter_of_kind(&weights, kind));
        assert_beyond(&name, apart(&got, &mistakes.floats(&name)), LOGITS);
    }
}

/// With a rank and a scale of its own for each module, above and below 16.
#[test]
fn gradients_of_ranks_and_alphas_by_pattern() {
    let weights = weights();
    let golden = json("tiny/golden.json");
    let documents: Vec<Document> =
        golden["documents"].as_array().unwrap().iter().map(Document::read).collect();
    let batch = pack(&documents);
    let adapter = adapter_of_kind(&weights, "patterns");
    let want = Tensors::open("adapters/patterns.grad.safetensors");
    let wanted = wanted_gradient(&adapter, &want);
    let model = Loaded::on_cpu(Arc::new(Cpu::new(2)), weights.clone());
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let mut engine = Engine::<f32>::new(&model, Some(&adapter), kind, Placement::Separate).unwrap();
    engine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
    let got = engine.grads().unwrap();
    for module in &adapter.modules {
        for range in [module.a_range(), module.b_range()] {
            let what = adapter.tensor_at(range.start);
            assert_within(&what, apart_in_norm(&got[range.clone()], &wanted[range]), GRADIENT);
        }
    }
}

/// What PEFT reads of a configuration is kept: written again, and made by the run file's keys.
/// For scripts/check_peft.py, DAYRUN_KEEP_ADAPTER keeps the latter with the values of PEFT's.
#[test]
fn what_is_written_says_what_peft_wrote() {
    let weights = weights();
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("DAYRUN_KEEP_ADAPTER").map(PathBuf::from);
    let base = BaseModel { name: "tiny".into(), ..BaseModel::default() };
    for (kind, keys) in KINDS {
        let adapter = adapter_of_kind(&weights, kind);
        let config = |dir: &Path| -> Value {
            let text = std::fs::read(dir.join("adapter_config.json")).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        let dir = temporary.path().join(kind);
        peft::save(&adapter, &dir, &base).unwrap();
        let (got, want) = (config(&dir), config(&golden_dir(kind)));
        for key in [
            "base_model_name_or_path",
            "target_modules",
            "exclude_modules",
            "layers_to_transform",
            "layers_pattern",
            "rank_pattern",
            "alpha_pattern",
            "r",
            "lora_alpha",
            "lora_dropout",
            "use_rslora",
            "peft_type",
            "task_type",
        ] {
            assert_eq!(got[key], want[key], "{kind} {key}");
            // In the order of the file, too.
            assert_eq!(got[key].to_string(), want[key].to_string(), "{kind} {key}");
        }
        assert_eq!(peft::load(&dir, &weights.config, "tiny").unwrap(), adapter);
        let here = Adapter { params: adapter.params, ..made_here(&weights, keys) };
        let dir = kept.as_ref().unwrap_or(&dir).join(kind);
        peft::save(&here, &dir, &base).unwrap();
        assert_eq!(peft::load(&dir, &weights.config, "tiny").unwrap(), here);
    }
}
