//! PEFT directories: round trips, what is refused, hostile files.

use std::path::Path;

use serde_json::{Value, json};

use super::peft::{load, save};
use super::*;
use crate::model::config::LlamaConfig;

pub(super) fn model() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 32,
        hidden_size: 24,
        intermediate_size: 40,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        num_key_value_heads: 1,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        max_position_embeddings: 64,
        tie_word_embeddings: true,
        differences: Default::default(),
    }
}

pub(super) fn config(modules: &[&str]) -> LoraConfig {
    LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        target_modules: TargetModules::list(modules.iter().copied()),
        ..LoraConfig::default()
    }
}

/// An adapter in which no value is zero, so that a value put in the wrong place shows.
pub(super) fn adapter(modules: &[&str]) -> Adapter {
    adapter_of(config(modules))
}

fn adapter_of(config: LoraConfig) -> Adapter {
    let mut adapter = Adapter::new(config, &model(), 3).expect("names modules");
    for (i, value) in adapter.params.iter_mut().enumerate() {
        *value += i as f32 * 0.25 + 1.0;
    }
    adapter
}

fn base() -> BaseModel {
    BaseModel {
        name: "org/model".into(),
        bytes: "sha256:abc".into(),
        quantization: "NF4, double quantised".into(),
        data: vec!["train.jsonl".into()],
    }
}

pub(super) fn saved(adapter: &Adapter) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    save(adapter, dir.path(), &base()).expect("saves");
    dir
}

/// Saves an adapter, changes its configuration and loads it.
pub(super) fn load_with(change: impl Fn(&mut Value)) -> Result<Adapter, PeftError> {
    let dir = saved(&adapter(&["q_proj", "down_proj"]));
    let path = dir.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    load(dir.path(), &model(), "org/model")
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn save_load_save_gives_equal_bytes() {
    for modules in [&["q_proj", "k_proj", "gate_proj"][..], &["down_proj"]] {
        let adapter = adapter(modules);
        let first = saved(&adapter);
        let loaded = load(first.path(), &model(), "org/model").expect("loads");
        assert_eq!(loaded, adapter);
        let second = saved(&loaded);
        assert_eq!(files(first.path()), files(second.path()));
        let names: Vec<String> = files(first.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["README.md", "adapter_config.json", "adapter_model.safetensors"]);
        // Saving over an existing one replaces it and leaves nothing else behind.
        save(&adapter, first.path(), &base()).expect("saves again");
        assert_eq!(files(first.path()), files(second.path()));
    }
}

#[test]
fn tensors_are_named_and_shaped_as_peft_does() {
    let adapter = adapter(&["k_proj"]);
    let dir = saved(&adapter);
    let bytes = std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let b = file
        .tensor("base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight")
        .expect("PEFT's name");
    assert_eq!(b.shape(), [8, 4]);
    let first = f32::from_le_bytes(b.data()[..4].try_into().unwrap());
    assert_eq!(first, adapter.params[adapter.modules[1].b]);
    assert_eq!(file.names().len(), 4);
    assert!(!file.names().iter().any(|name| !name.contains(".lora_")), "the base is never saved");
}

#[test]
fn target_modules_in_every_form() {
    let want = adapter(&["q_proj", "down_proj"]);
    for form in [
        json!(["down_proj", "q_proj"]),
        json!(["mlp.down_proj", "q_proj"]),
        json!(["query_key_value", "down_proj", "q_proj"]),
        json!(r"model\.layers\.\d+\.(self_attn\.q_proj|mlp\.down_proj)"),
        json!(".*(q_proj|down_proj)"),
    ] {
        let got = load_with(|c| c["target_modules"] = form.clone()).expect("loads");
        assert_eq!((&got.modules, &got.params), (&want.modules, &want.params), "{form}");
        // The form is kept.
        let kept = serde_json::to_value(&got.config.target_modules).unwrap();
        assert_eq!(kept, form);
    }
}

/// Every kind of configuration: what is written reads back to the same, and is written the same.
#[test]
fn every_kind_survives_a_round_trip() {
    let all = ["q_proj", "k_proj", "down_proj"];
    let kinds = [
        LoraConfig { target_modules: TargetModules::AllLinear, ..config(&all) },
        LoraConfig {
            target_modules: TargetModules::Named(Names::Pattern(r".*\.(?!k)[a-z]_proj".into())),
            ..config(&all)
        },
        LoraConfig {
            layers_to_transform: Some(OneOrMany::One(1)),
            layers_pattern: Some(OneOrMany::Many(vec!["h".into(), "layers".into()])),
            ..config(&all)
        },
        LoraConfig {
            exclude_modules: Some(Names::List(vec!["0.self_attn.q_proj".into()])),
            use_rslora: true,
            lora_alpha: 11.313708498984761,
            lora_dropout: 0.05,
            ..config(&all)
        },
        LoraConfig {
            exclude_modules: Some(Names::Pattern(".*layers\\.1.*".into())),
            // Sorted, the second would count for q_proj, too.
            rank_pattern: Patterns(vec![("q_proj".into(), 2), (".*_proj".into(), 6)]),
            alpha_pattern: Patterns(vec![("z|k_proj".into(), 2.5), ("a|down_proj".into(), 3.0)]),
            ..config(&all)
        },
    ];
    for kind in kinds {
        let adapter = adapter_of(kind);
        let first = saved(&adapter);
        let loaded = load(first.path(), &model(), "org/model").expect("loads");
        assert_eq!(loaded, adapter);
        assert_eq!(files(first.path()), files(saved(&loaded).path()));
    }
}

#[test]
fn the_card_says_what_it_is_for_and_how_to_load_it() {
    let kind = LoraConfig {
        exclude_modules: Some(Names::Pattern("a|b".into())),
        layers_to_transform: Some(OneOrMany::Many(vec![0, 1])),
        rank_pattern: Patterns(vec![("q_proj".into(), 2)]),
        ..config(&["q_proj", "down_proj"])
    };
    let dir = saved(&adapter_of(kind));
    let card = std::fs::read_to_string(dir.path().join("README.md")).unwrap();
    for part in [
        "base_model: \"org/model\"\n",
        "library_name: peft\n",
        "| base model | org/model |\n",
        "| trained on these bytes | sha256:abc |\n",
        "| data | train.jsonl |\n",
        "| r, lora_alpha | 4, 8 (scale lora_alpha / r) |\n",
        "| rank_pattern | `q_proj`: 2 |\n",
        "| target modules | q_proj, down_proj; in layers 0, 1; but not `a\\|b` |\n",
        "from_pretrained(\"org/model\")\n",
        "PeftModel.from_pretrained(base, ",
    ] {
        assert!(card.contains(part), "{part} in {card}");
    }
    assert!(!card.contains("alpha_pattern"), "{card}");
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    let dir = saved(&adapter(&["k_proj"]));
    let path = dir.path().join("adapter_model.safetensors");
    let good = std::fs::read(&path).unwrap();
    for len in (0..good.len()).step_by(7) {
        std::fs::write(&path, &good[..len]).unwrap();
        let error = load(dir.path(), &model(), "org/model").expect_err("cut off");
        assert!(error.to_string().contains("adapter_model.safetensors"), "{error}");
    }
    // Bit flips in the header: an error, or the same tensors (a flip in the metadata).
    for byte in 0..600.min(good.len()) {
        let mut bad = good.clone();
        bad[byte] ^= 1 << (byte % 8);
        std::fs::write(&path, &bad).unwrap();
        let _ = load(dir.path(), &model(), "org/model");
    }
    // A header that claims 2^60 bytes.
    let mut bad = good.clone();
    bad[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    std::fs::write(&path, &bad).unwrap();
    load(dir.path(), &model(), "org/model").expect_err("huge header");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(dir.path().join("adapter_model.bin"), b"pickle").unwrap();
    let error = load(dir.path(), &model(), "org/model").expect_err("only a pickle");
    assert!(error.hint().expect("advice").contains("pickle"));
}

#[test]
fn half_precision_tensors_are_read() {
    let adapter = adapter(&["k_proj"]);
    let dir = saved(&adapter);
    let path = dir.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let data = view.data().as_chunks::<4>().0.iter();
            let data =
                data.flat_map(|b| half::bf16::from_f32(f32::from_le_bytes(*b)).to_le_bytes());
            (name.to_string(), view.shape().to_vec(), data.collect())
        })
        .collect();
    let views = halves.iter().map(|(name, shape, data)| {
        let view =
            safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), data);
        (name.clone(), view.unwrap())
    });
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let loaded = load(dir.path(), &model(), "org/model").expect("loads");
    for (got, want) in loaded.params.iter().zip(&adapter.params) {
        assert_eq!(*got, half::bf16::from_f32(*want).to_f32());
    }
}

#[test]
fn an_unwritable_place_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = save(&adapter(&["k_proj"]), &file.join("adapter"), &base()).expect_err("a file");
    assert!(error.to_string().contains("saving the adapter"), "{error}");
    assert!(error.hint().expect("advice").contains("untouched"));
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}
