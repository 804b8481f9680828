//! Hub directories: every dtype, shards, bitsandbytes, and what is refused.

use std::fs;
use std::path::Path;

use dayrun::model::config::Linear;
use dayrun::model::weights::{Matrix, Weights};
use dayrun::model::{Error, Linears, LoadOptions, load};
use dayrun::progress::quiet;
use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::writer::{ODD, Stored, TINY, Tiny, stored, write_hub, write_shards};
use super::{assert_same, bnb, load_plain, matrix_bytes, refused};

fn hub(tiny: &Tiny, dtype: Dtype) -> TempDir {
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &tiny.config(), &stored(dtype, &tiny.tensors()));
    dir
}

fn with_config(edit: impl Fn(&mut Value)) -> TempDir {
    let dir = tempdir().expect("a directory");
    let mut config = TINY.config();
    edit(&mut config);
    write_hub(dir.path(), &config, &stored(Dtype::BF16, &TINY.tensors()));
    dir
}

fn with_tensors(edit: impl Fn(&mut Vec<Stored>)) -> TempDir {
    let dir = tempdir().expect("a directory");
    let mut tensors = stored(Dtype::F32, &TINY.tensors());
    edit(&mut tensors);
    write_hub(dir.path(), &TINY.config(), &tensors);
    dir
}

fn find<'a>(tensors: &'a mut [Stored], name: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.0 == name).expect("the tensor")
}

#[test]
fn every_dtype_and_shards_give_the_same_bits() {
    for tiny in [TINY, ODD] {
        let base = load_plain(hub(&tiny, Dtype::BF16).path()).expect("loads");
        for dtype in [Dtype::F32, Dtype::F16] {
            assert_same(&base, &load_plain(hub(&tiny, dtype).path()).expect("loads"));
        }
        let dir = tempdir().expect("a directory");
        write_shards(dir.path(), &tiny.config(), &stored(Dtype::BF16, &tiny.tensors()));
        assert_same(&base, &load_plain(dir.path()).expect("loads"));
    }
}

#[test]
fn tensors_come_to_their_places() {
    let tiny = ODD;
    let weights = load_plain(hub(&tiny, Dtype::F16).path()).expect("loads");
    let tensors = tiny.tensors();
    let values = |name: &str| &tensors.iter().find(|t| t.name == name).expect("a tensor").values;
    let dense = |name: &str, dense: &dayrun::model::weights::Dense| {
        let got: Vec<f32> = dense.as_slice().iter().map(|x| x.to_f32()).collect();
        assert_eq!(&got, values(name), "{name}");
    };
    dense("model.embed_tokens.weight", &weights.embed_tokens);
    dense("model.norm.weight", &weights.norm);
    dense("lm_head.weight", weights.head());
    let layer = &weights.layers[0];
    dense("model.layers.0.input_layernorm.weight", &layer.input_layernorm);
    dense("model.layers.0.post_attention_layernorm.weight", &layer.post_attention_layernorm);
    for linear in Linear::ALL {
        let name = format!("{}.weight", linear.path(0));
        let (rows, cols) = linear.shape(&weights.config);
        let want = dayrun::quant::quantise(rows, cols, values(&name)).expect("quantises");
        let want = dayrun::quant::double_quantise(want);
        assert!(
            matrix_bytes(&want) == matrix_bytes(layer.linear(linear).as_nf4().unwrap()),
            "{name}"
        );
    }
}

#[test]
fn f32_values_are_rounded_to_bf16_before_all_else() {
    let tensors = uneven(&TINY);
    let load = |dtype| {
        let dir = tempdir().expect("a directory");
        write_hub(dir.path(), &TINY.config(), &stored(dtype, &tensors));
        load_plain(dir.path()).expect("loads")
    };
    assert_same(&load(Dtype::F32), &load(Dtype::BF16));
}

/// Loads without quantising.
fn load_as(source: &Path, linears: Linears) -> Result<Weights, Error> {
    load(source, &LoadOptions { linears, ..LoadOptions::default() }, &quiet)
}

/// Values that neither bf16 nor f16 holds.
fn uneven(tiny: &Tiny) -> Vec<super::writer::Tensor> {
    let mut tensors = tiny.tensors();
    for x in tensors.iter_mut().flat_map(|t| &mut t.values) {
        *x *= 1.0 + 1e-3;
    }
    tensors
}

/// Unquantised linears: the file's own bytes where the ops can multiply them, else rounded to bf16 once, or not
/// at all. Everything else is as it is beside NF4.
#[test]
fn unquantised_linears_are_those_of_the_file() {
    for tiny in [TINY, ODD] {
        let tensors = uneven(&tiny);
        for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
            let dir = tempdir().expect("a directory");
            let stored = stored(dtype, &tensors);
            write_hub(dir.path(), &tiny.config(), &stored);
            // What the file's type has left of the values.
            let exact = |name: &str| -> Vec<f32> {
                let t = tensors.iter().find(|t| t.name == name).expect("a tensor");
                let left = |x: f32| match dtype {
                    Dtype::BF16 => bf16::from_f32(x).to_f32(),
                    Dtype::F16 => f16::from_f32(x).to_f32(),
                    _ => x,
                };
                t.values.iter().map(|&x| left(x)).collect()
            };
            let nf4 = load_plain(dir.path()).expect("loads");
            for held in [Linears::Bf16, Linears::F32] {
                let weights = load_as(dir.path(), held).expect("loads");
                for (i, layer) in weights.layers.iter().enumerate() {
                    for linear in Linear::ALL {
                        let name = format!("{}.weight", linear.path(i));
                        let (values, mapped) = match layer.linear(linear) {
                            Matrix::Bf16(w) if held == Linears::Bf16 || dtype == Dtype::BF16 => {
                                let values = w.as_slice().iter().map(|x| x.to_f32());
                                (values.collect::<Vec<_>>(), w.data.is_mapped())
                            }
                            Matrix::F32(w) if held == Linears::F32 => {
                                (w.as_slice().to_vec(), w.data.is_mapped())
                            }
                            other => panic!("{name} of {dtype:?} as {held:?}: {other:?}"),
                        };
                        let mut want = exact(&name);
                        if held == Linears::Bf16 {
                            want.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32());
                        }
                        assert!(values == want, "{name} of {dtype:?} as {held:?}");
                        let usable = [
                            (Linears::Bf16, Dtype::BF16),
                            (Linears::F32, Dtype::BF16),
                            (Linears::F32, Dtype::F32),
                        ];
                        assert_eq!(mapped, usable.contains(&(held, dtype)), "{name} of {dtype:?}");
                    }
                }
                // The rest is what it is beside quantised linears.
                let mut rest = weights;
                rest.layers
                    .iter_mut()
                    .zip(&nf4.layers)
                    .for_each(|(layer, nf4)| layer.linears = nf4.linears.clone());
                assert_same(&rest, &nf4);
            }
        }
    }
}

#[test]
fn a_name_for_how_linears_are_held() {
    let dir = hub(&TINY, Dtype::F32);
    let held = |linears| load_as(dir.path(), linears).expect("loads").held();
    assert_eq!(held(Linears::Nf4), "NF4, double quantised");
    assert_eq!(held(Linears::Bf16), "bf16, not quantised");
    assert_eq!(held(Linears::F32), "f32, not quantised");
    let mut mixed = load_plain(dir.path()).expect("loads");
    let plain = load_as(dir.path(), Linears::Bf16).expect("loads");
    mixed.layers[0].linears[2] = plain.layers[0].linears[2].clone();
    let linears = 7 * TINY.config()["num_hidden_layers"].as_u64().expect("a number");
    assert_eq!(mixed.held(), format!("NF4, double quantised (of {linears} linears 1 in bf16)"));
}

#[test]
fn what_cannot_be_had_unquantised_is_refused() {
    let mut tensors = TINY.tensors();
    let name = "model.layers.1.mlp.up_proj.weight";
    tensors.iter_mut().find(|t| t.name == name).expect("the tensor").values[5] = f32::INFINITY;
    for (dtype, held) in [(Dtype::BF16, Linears::Bf16), (Dtype::F32, Linears::F32)] {
        let dir = tempdir().expect("a directory");
        write_hub(dir.path(), &TINY.config(), &stored(dtype, &tensors));
        let message = load_as(dir.path(), held).expect_err("infinite").to_string();
        assert!(message.contains(name) && message.contains("inf"), "{message}");
    }
    let (config, tensors) = four_bit(&load_plain(hub(&TINY, Dtype::BF16).path()).expect("loads"));
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &config, &tensors);
    let error = load_as(dir.path(), Linears::Bf16).expect_err("in 4 bits");
    assert!(error.to_string().contains("quantised already"), "{error}");
    assert!(error.hint().expect("a hint").contains("--quantization nf4"));
}

#[test]
fn bitsandbytes_directories_keep_their_bytes() {
    let plain = load_plain(hub(&TINY, Dtype::BF16).path()).expect("loads");
    let dir = tempdir().expect("a directory");
    let (config, tensors) = four_bit(&plain);
    write_shards(dir.path(), &config, &tensors);
    assert_same(&plain, &load_plain(dir.path()).expect("loads"));

    // A linear left in 16 bits (llm_int8_skip_modules) stays there.
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut skipped = tensors.clone();
    skipped.retain(|t| !t.0.starts_with(name));
    skipped.extend(stored(Dtype::F16, &TINY.tensors()).into_iter().filter(|t| t.0 == name));
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &config, &skipped);
    let mixed = load_plain(dir.path()).expect("loads");
    let Matrix::Bf16(up) = &mixed.layers[1].linears[Linear::Up as usize] else {
        panic!("not in 16 bits")
    };
    let want = TINY.tensors().into_iter().find(|t| t.name == name).expect("the tensor").values;
    assert_eq!(up.as_slice().iter().map(|x| x.to_f32()).collect::<Vec<_>>(), want);
    assert!(mixed.layers[0].linears.iter().all(|linear| linear.as_nf4().is_some()));
    find(&mut skipped, name).2.reverse();
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &config, &skipped);
    refused(dir.path(), &[name, "[64, 96]", "[96, 64]"]);

    let mut damaged = tensors.clone();
    find(&mut damaged, &format!("{name}.absmax")).3.pop();
    find(&mut damaged, &format!("{name}.absmax")).2[0] -= 1;
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &config, &damaged);
    refused(dir.path(), &["model.safetensors", name, "`absmax`"]);
}

fn four_bit(weights: &dayrun::model::weights::Weights) -> (Value, Vec<Stored>) {
    let mut tensors = stored(Dtype::BF16, &TINY.tensors());
    for (i, layer) in weights.layers.iter().enumerate() {
        for linear in Linear::ALL {
            let name = format!("{}.weight", linear.path(i));
            tensors.retain(|t| t.0 != name);
            tensors.extend(bnb::serialise(&name, layer.linear(linear).as_nf4().unwrap()));
        }
    }
    let mut config = TINY.config();
    config["quantization_config"] = json!({
        "quant_method": "bitsandbytes",
        "load_in_4bit": true,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": true,
    });
    (config, tensors)
}

#[test]
fn other_models_are_refused_by_name_before_tensors_are_looked_at() {
    for (key, value) in [
        ("model_type", json!("gemma2")),
        ("model_type", json!("qwen3_moe")),
        ("model_type", json!(7)),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        ("hidden_act", json!("gelu")),
        ("mlp_bias", json!(true)),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 2.0 })),
        ("rope_parameters", json!({ "rope_type": "yarn", "rope_theta": 1e4 })),
        ("sliding_window", json!(4096)),
        ("quantization_config", json!({ "quant_method": "gptq", "bits": 4 })),
        ("quantization_config", json!({ "quant_method": "bitsandbytes", "load_in_8bit": true })),
    ] {
        // No weights at all: the refusal comes first.
        let dir = tempdir().expect("a directory");
        let mut config = TINY.config();
        config[key] = value.clone();
        fs::write(dir.path().join("config.json"), config.to_string()).expect("writes");
        let text = value.to_string();
        let said = if key == "quantization_config" { "quant_method" } else { &text };
        refused(dir.path(), &["config.json", key, said, "not supported"]);
    }
    let fp4 = json!({ "load_in_4bit": true, "bnb_4bit_quant_type": "fp4" });
    let dir = with_config(|config| config["quantization_config"] = fp4.clone());
    refused(dir.path(), &["bnb_4bit_quant_type", "fp4"]);
}

#[test]
fn rope_as_transformers_5_writes_it_is_read() {
    let dir = with_config(|config| {
        config["rope_theta"] = Value::Null;
        config["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 123456.0 });
    });
    assert_eq!(load_plain(dir.path()).expect("loads").config.rope_theta, 123456.0);
}

#[test]
fn impossible_configurations_name_the_key() {
    for (key, value) in [
        ("model_type", Value::Null),
        ("hidden_size", Value::Null),
        ("vocab_size", json!(0)),
        ("vocab_size", json!(-4)),
        ("vocab_size", json!("many")),
        ("intermediate_size", json!(1.5)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(15)),
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!("small")),
        ("rope_theta", json!(-1)),
        ("tie_word_embeddings", json!("yes")),
        ("attention_bias", json!(1)),
        ("rope_scaling.factor", json!({ "type": "linear" })),
        ("rope_scaling.factor", json!({ "type": "linear", "factor": 0.5 })),
        ("rope_scaling.low_freq_factor", json!({ "rope_type": "llama3", "factor": 8.0 })),
        (
            "rope_scaling.high_freq_factor",
            json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            }),
        ),
    ] {
        let (whole, _) = key.split_once('.').unwrap_or((key, ""));
        let dir = with_config(|config| config[whole] = value.clone());
        refused(dir.path(), &["config.json", &format!("`{key}`")]);
    }
    let dir = tempdir().expect("a directory");
    fs::write(dir.path().join("config.json"), "{").expect("writes");
    assert!(matches!(load_plain(dir.path()), Err(Error::Json { .. })));
}

#[test]
fn wrong_tensors_are_named() {
    let q = "model.layers.1.self_attn.q_proj.weight";
    let norm = "model.layers.0.input_layernorm.weight";
    let dir = with_tensors(|t| t.retain(|t| t.0 != q));
    refused(dir.path(), &["model.safetensors", q, "missing"]);
    let dir = with_tensors(|t| find(t, q).2 = vec![32, 128]);
    refused(dir.path(), &[q, "[32, 128]", "[64, 64]"]);
    let dir = with_tensors(|t| find(t, q).1 = Dtype::I32);
    refused(dir.path(), &[q, "I32"]);
    let dir = with_tensors(|t| find(t, norm).2 = vec![1, 64]);
    refused(dir.path(), &[norm, "[1, 64]"]);
    let bias = "model.layers.1.self_attn.q_proj.bias";
    let dir = with_tensors(|t| t.push((bias.into(), Dtype::F32, vec![64], vec![0; 256])));
    refused(dir.path(), &[bias, "no place"]);
    // An untied model without its head.
    let dir = with_config(|config| config["tie_word_embeddings"] = json!(false));
    refused(dir.path(), &["lm_head.weight", "missing"]);
}

#[test]
fn tensors_that_change_nothing_are_left_out() {
    let base = load_plain(hub(&TINY, Dtype::F32).path()).expect("loads");
    let dir = with_tensors(|tensors| {
        let inv = "model.layers.0.self_attn.rotary_emb.inv_freq".to_string();
        tensors.push((inv, Dtype::F32, vec![8], vec![0; 32]));
        let mut head = tensors[0].clone();
        head.0 = "lm_head.weight".into();
        tensors.push(head);
    });
    assert_same(&base, &load_plain(dir.path()).expect("loads"));
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    for name in [
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
    ] {
        for (dtype, bad) in
            [(Dtype::F32, f32::NAN), (Dtype::BF16, f32::INFINITY), (Dtype::F32, f32::MAX)]
        {
            let mut tensors = TINY.tensors();
            let tensor = tensors.iter_mut().find(|t| t.name == name).expect("the tensor");
            tensor.values[33] = bad;
            let dir = tempdir().expect("a directory");
            write_hub(dir.path(), &TINY.config(), &stored(dtype, &tensors));
            refused(dir.path(), &["model.safetensors", name, "element 33"]);
        }
    }
}

#[test]
fn a_shard_index_that_is_wrong_is_named() {
    let shards = || {
        let dir = tempdir().expect("a directory");
        write_shards(dir.path(), &TINY.config(), &stored(Dtype::BF16, &TINY.tensors()));
        dir
    };
    let edit = |dir: &Path, edit: &dyn Fn(&mut Value)| {
        let path = dir.join("model.safetensors.index.json");
        let mut index = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
        edit(&mut index);
        fs::write(path, index.to_string()).expect("writes");
    };
    let dir = shards();
    edit(dir.path(), &|index| index["weight_map"]["model.norm.weight"] = json!("../x.safetensors"));
    refused(dir.path(), &["index.json", "../x.safetensors"]);
    let dir = shards();
    edit(dir.path(), &|index| {
        index["weight_map"]["nowhere"] = json!("model-00001-of-00004.safetensors")
    });
    refused(dir.path(), &["index.json", "`nowhere`"]);
    let dir = shards();
    edit(dir.path(), &|index| index["weight_map"] = json!([]));
    refused(dir.path(), &["index.json"]);
    let dir = shards();
    for name in ["model-00002-of-00004.safetensors", "model-00004-of-00004.safetensors"] {
        fs::remove_file(dir.path().join(name)).expect("removes");
    }
    let missing = "model-00002-of-00004.safetensors, model-00004-of-00004.safetensors";
    refused(dir.path(), &["index.json: 2 of 4 shards are missing: ", missing]);
    fs::remove_file(dir.path().join("model.safetensors.index.json")).expect("removes");
    refused(dir.path(), &["model-00001-of-00004.safetensors is there, but not the index"]);
}

#[test]
fn other_files_than_weights_are_named() {
    let dir = tempdir().expect("a directory");
    let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("writes");
    file("config.json", &TINY.config().to_string());
    refused(dir.path(), &["no safetensors: neither model.safetensors nor"]);
    file("pytorch_model.bin", "PK");
    refused(dir.path(), &["pytorch_model.bin is there", "pickled by PyTorch are not read"]);
    file("tiny-Q8_0.gguf", "GGUF");
    refused(dir.path(), &["tiny-Q8_0.gguf is there, which is a model by itself"]);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4242\n";
    file("model.safetensors", pointer);
    refused(dir.path(), &["model.safetensors is a git-lfs pointer, not the file itself"]);
    let error = load_plain(dir.path()).expect_err("refused");
    assert!(error.hint().is_some_and(|hint| hint.contains("git lfs pull")));
    fs::remove_file(dir.path().join("model.safetensors")).expect("removes");
    file("tokenizer.json", pointer);
    refused(dir.path(), &["tokenizer.json is a git-lfs pointer"]);
    file("tiny-Q8_0.gguf", pointer);
    refused(&dir.path().join("tiny-Q8_0.gguf"), &["tiny-Q8_0.gguf is a git-lfs pointer"]);
    fs::remove_file(dir.path().join("config.json")).expect("removes");
    file("adapter_config.json", "{}");
    refused(dir.path(), &["holds an adapter, not a model"]);
}

#[test]
fn a_cut_file_says_how_much_of_it_there_is() {
    let dir = hub(&TINY, Dtype::BF16);
    let file = dir.path().join("model.safetensors");
    let whole = fs::read(&file).expect("reads");
    fs::write(&file, &whole[..whole.len() - 1000]).expect("writes");
    let part = format!("{} bytes of {}", whole.len() - 1000, whole.len());
    refused(dir.path(), &["model.safetensors is incomplete: ", &part]);
    // Cut within its header, it does not know.
    fs::write(&file, &whole[..100]).expect("writes");
    refused(dir.path(), &["reading ", "model.safetensors"]);
}

#[test]
fn a_source_that_is_no_model_is_named() {
    let dir = tempdir().expect("a directory");
    refused(&dir.path().join("absent"), &["absent"]);
    refused(dir.path(), &["config.json"]);
    let file = dir.path().join("model.bin");
    fs::write(&file, "x").expect("writes");
    refused(&file, &["model.bin", ".gguf"]);
}

#[test]
fn truncated_and_flipped_safetensors_never_panic() {
    let tiny =
        Tiny { vocab: 3, hidden: 4, inner: 5, layers: 1, heads: 1, kv: 1, head_dim: 4, ..TINY };
    let dir = hub(&tiny, Dtype::BF16);
    let file = dir.path().join("model.safetensors");
    let whole = fs::read(&file).expect("reads");
    load_plain(dir.path()).expect("loads");
    for len in 0..whole.len() {
        fs::write(&file, &whole[..len]).expect("writes");
        assert!(load_plain(dir.path()).is_err(), "{len} of {} bytes load", whole.len());
    }
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("8 bytes")) as usize;
    for at in 0..header {
        for bit in [0, 3, 6] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&file, &flipped).expect("writes");
            let _ = load_plain(dir.path()); // an error or, in padding, a load: no panic
        }
    }
}
