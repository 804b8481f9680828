//! `dayrun inspect` on good things and bad ones; no run, no quantisation, headers alone.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{check_snapshot, dayrun, project, root, run, stderr, stdout, tiny};

/// A command's page, with its code, and the paths of this machine cut out.
fn page(dir: &Path, args: &[&str]) -> String {
    let output = run(dir, &[&["inspect"], args].concat());
    let code = output.status.code().expect("not killed");
    let mut text = stdout(&output);
    let errors = stderr(&output);
    if let Some(at) = errors.find("error: ") {
        text.push_str(&errors[at..]);
    }
    for (path, name) in [(dir, "DIR"), (root(), "REPOSITORY")] {
        text = text.replace(&path.display().to_string(), name);
    }
    let args = args.join(" ").replace(&root().display().to_string(), "REPOSITORY");
    format!("$ dayrun inspect {args}\n{text}({code})\n\n")
}

fn path(name: &str) -> String {
    root().join("tests/golden").join(name).display().to_string()
}

/// A directory with the tiny model's files, its config.json changed.
fn changed_model(dir: &Path, name: &str, change: impl Fn(&mut Value)) {
    let to = dir.join(name);
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let config = std::fs::read(to.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn models_are_described_whether_they_are_supported_or_not() {
    let dir = project();
    let dir = dir.path();
    let mut seen = String::new();
    changed_model(dir, "experts", |config| {
        config["model_type"] = "mixtral".into();
        config["architectures"] = json!(["MixtralForCausalLM"]);
        config["num_local_experts"] = 8.into();
    });
    changed_model(dir, "wide", |config| config["intermediate_size"] = 48.into());
    changed_model(dir, "damaged", |_| {});
    std::fs::write(dir.join("damaged/model.safetensors"), "half").unwrap();
    changed_model(dir, "template", |_| {});
    let template = "{% for m in messages %}{{ m.content }}";
    std::fs::write(dir.join("template/chat_template.jinja"), template).unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    let tiny = tiny().display().to_string();
    seen += &page(dir, &[&tiny, "--tensors"]);
    for family in ["llama3", "mistral", "qwen2-sliding", "qwen3", "smollm3"] {
        seen += &page(dir, &[&path(&format!("families/{family}/bnb"))]);
    }
    #[cfg(feature = "gguf")]
    {
        seen += &page(dir, &[&path("families/qwen2/model.gguf")]);
    }
    for name in ["experts", "wide", "damaged", "template", "empty", "nowhere", "rows.txt"] {
        seen += &page(dir, &[name]);
    }
    check_snapshot("inspect-models.txt", &seen);
}

#[test]
fn data_are_described_with_and_without_a_model() {
    let dir = project();
    let dir = dir.path();
    let mixed = "{\"prompt\": \"1 and 1 is\", \"completion\": \" two\\nor more\"}\n\
                 {\"text\": \"another kind\"}\nnot JSON\n\
                 {\"prompt\": \"2 and 2 is\", \"completion\": \" \\u001b[2J four\"}\n";
    std::fs::write(dir.join("mixed.jsonl"), mixed).unwrap();
    std::fs::write(dir.join("odd.csv"), "a,b\n1,2\n").unwrap();
    let tiny = tiny().display().to_string();
    let mut seen = page(dir, &["rows.jsonl"]);
    seen += &page(dir, &["rows.jsonl", "--model", &tiny]);
    seen += &page(dir, &["mixed.jsonl"]);
    seen += &page(dir, &["mixed.jsonl", "--model", &tiny, "--rows", "5"]);
    let set = "data.max_length=8";
    seen += &page(dir, &["rows.jsonl", "--model", &tiny, "--set", set, "--rows", "0"]);
    seen += &page(dir, &["odd.csv"]);
    check_snapshot("inspect-data.txt", &seen);
}

#[test]
fn a_run_file_is_described_with_all_that_it_names() {
    let dir = project();
    let dir = dir.path();
    let mut seen = page(dir, &["run.toml", "--rows", "1"]);
    seen += &page(dir, &["run.toml", "--set", "data.train=no.jsonl", "--rows", "0"]);
    seen += &page(dir, &["run.toml", "--set", "lora.init_adapter=no/adapter", "--rows", "0"]);
    check_snapshot("inspect-run.txt", &seen);
    let json = run(dir, &["inspect", "run.toml", "--json"]);
    assert!(json.status.success(), "{}", stderr(&json));
    let json: Value = serde_json::from_str(&stdout(&json)).expect("JSON");
    assert_eq!(json["model"]["config"]["num_hidden_layers"], 2, "{json:#}");
    assert_eq!(json["data"]["rows"], 24);
    assert_eq!(json["eval"]["rows"], 5);
    let segments = json["data"]["documents_shown"][0].as_array().expect("segments");
    let loss: Vec<&Value> = segments.iter().filter(|s| s["loss"] == true).collect();
    assert_eq!(loss.len(), 1, "{segments:?}");
    // Nothing was made: no run, no quantised model.
    assert!(!dir.join("runs").exists() && !dir.join("cache").exists());
}

#[test]
fn adapters_are_described_alone_and_listed_together() {
    let dir = project();
    let dir = dir.path();
    for family in ["qwen2", "llama3"] {
        let to = dir.join("all").join(family);
        std::fs::create_dir_all(&to).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let from = Path::new(&path("families")).join(family).join("adapter").join(file);
            std::fs::copy(from, to.join(file)).unwrap();
        }
    }
    std::fs::create_dir_all(dir.join("all/dora")).unwrap();
    let dora = "{\"peft_type\": \"LORA\", \"use_dora\": true, \"r\": 8, \"lora_alpha\": 8, \
                \"target_modules\": [\"q_proj\"]}";
    std::fs::write(dir.join("all/dora/adapter_config.json"), dora).unwrap();
    let mut seen = page(dir, &["all"]);
    seen += &page(dir, &["all/qwen2"]);
    seen += &page(dir, &["all/qwen2", "--model", &path("families/qwen2/bnb")]);
    seen += &page(dir, &["all/qwen2", "--model", &tiny().display().to_string()]);
    check_snapshot("inspect-adapters.txt", &seen);
}

/// A model of 100 GB, of which nothing but the header takes any room on the disk.
#[test]
fn a_model_of_any_size_is_looked_at_in_a_moment() {
    let dir = project();
    let dir = dir.path();
    changed_model(dir, "large", |config| {
        for (key, value) in [("vocab_size", 128_256), ("num_hidden_layers", 80)] {
            config[key] = value.into();
        }
        for (key, value) in [("hidden_size", 8192), ("intermediate_size", 28_672)] {
            config[key] = value.into();
        }
        for (key, value) in
            [("num_attention_heads", 64), ("num_key_value_heads", 8), ("head_dim", 128)]
        {
            config[key] = value.into();
        }
        config["tie_word_embeddings"] = false.into();
    });
    let (mut header, mut end) = (serde_json::Map::new(), 0u64);
    let mut add = |name: String, shape: &[u64]| {
        let start = end;
        end += 2 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
    };
    add("model.embed_tokens.weight".into(), &[128_256, 8192]);
    add("lm_head.weight".into(), &[128_256, 8192]);
    add("model.norm.weight".into(), &[8192]);
    for layer in 0..80 {
        for (name, shape) in [
            ("self_attn.q_proj", vec![8192, 8192]),
            ("self_attn.k_proj", vec![1024, 8192]),
            ("self_attn.v_proj", vec![1024, 8192]),
            ("self_attn.o_proj", vec![8192, 8192]),
            ("mlp.gate_proj", vec![28_672, 8192]),
            ("mlp.up_proj", vec![28_672, 8192]),
            ("mlp.down_proj", vec![8192, 28_672]),
            ("input_layernorm", vec![8192]),
            ("post_attention_layernorm", vec![8192]),
        ] {
            add(format!("model.layers.{layer}.{name}.weight"), &shape);
        }
    }
    let header = Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    let file = dir.join("large/model.safetensors");
    std::fs::write(&file, &bytes).unwrap();
    let file = std::fs::File::options().write(true).open(file).unwrap();
    if let Err(problem) = file.set_len(bytes.len() as u64 + end) {
        eprintln!("SKIPPED: no file of {end} bytes here: {problem}");
        return;
    }
    let start = Instant::now();
    let output = dayrun(dir).args(["inspect", "large", "--json"]).output().unwrap();
    let took = start.elapsed();
    let json: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    assert_eq!(json["model"]["refusals"], json!([]), "{json:#}");
    assert_eq!(json["model"]["tensors"]["parameters"], end / 2);
    let memory = &json["model"]["memory"];
    let sum = memory["linear_parameters"].as_u64().zip(memory["dense_parameters"].as_u64());
    assert_eq!(sum.map(|(linear, dense)| linear + dense), Some(end / 2));
    println!("a model of {end} bytes: {took:.1?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
