//! GGUF files: the same bits as the Hub directory, every tensor type, and what is refused.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor as Candle};
use dayrun::model::config::Linear;
use dayrun::model::gguf::{Gguf, Value};
use dayrun::model::rope_scaling::RopeScaling;
use dayrun::model::{Linears, LoadOptions, load};
use dayrun::progress::quiet;
use half::{bf16, f16};
use safetensors::Dtype;
use tempfile::tempdir;

use super::writer::{GgufFile, Meta, ODD, TINY, Tensor, Tiny, encode, stored, write_hub};
use super::{assert_same, load_plain, refused};

/// Large enough for the 256-element blocks of the k-quants.
const WIDE: Tiny = Tiny {
    vocab: 9,
    hidden: 256,
    inner: 512,
    layers: 1,
    heads: 4,
    kv: 2,
    head_dim: 64,
    tied: true,
};

fn load_gguf(file: &GgufFile) -> dayrun::model::weights::Weights {
    let dir = tempdir().expect("a directory");
    load_plain(&file.write(dir.path())).expect("loads")
}

fn load_hub(tiny: &Tiny, tensors: &[Tensor]) -> dayrun::model::weights::Weights {
    let dir = tempdir().expect("a directory");
    write_hub(dir.path(), &tiny.config(), &stored(Dtype::F32, tensors));
    load_plain(dir.path()).expect("loads")
}

#[test]
fn float_files_give_the_bits_of_the_hub_directory() {
    for tiny in [TINY, ODD] {
        let hub = load_hub(&tiny, &tiny.tensors());
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            assert_same(&hub, &load_gguf(&GgufFile::float(&tiny, dtype)));
        }
    }
}

#[test]
fn unquantised_float_files_give_the_bits_of_the_hub_directory() {
    for held in [Linears::Bf16, Linears::F32] {
        let options = LoadOptions { linears: held, ..LoadOptions::default() };
        for tiny in [TINY, ODD] {
            let dir = tempdir().expect("a directory");
            write_hub(dir.path(), &tiny.config(), &stored(Dtype::F32, &tiny.tensors()));
            let hub = load(dir.path(), &options, &quiet).expect("loads");
            for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
                let file = GgufFile::float(&tiny, dtype).write(dir.path());
                assert_same(&hub, &load(&file, &options, &quiet).expect("loads"));
            }
        }
    }
}

/// What the comparison above would miss if it could not fail: q and k left permuted.
#[test]
fn permuted_rows_are_told_apart() {
    let hub = load_hub(&TINY, &TINY.tensors());
    let mut tensors = TINY.tensors();
    let q = tensors.iter_mut().find(|t| t.name.contains("q_proj")).expect("q");
    q.values = super::writer::permute(&q.values, TINY.heads, 64, 64);
    let permuted = load_hub(&TINY, &tensors);
    let codes = |w: &dayrun::model::weights::Weights| {
        w.layers[0].linear(Linear::Q).as_nf4().unwrap().codes.to_vec()
    };
    assert_ne!(codes(&hub), codes(&permuted));
}

/// Quantises every matrix with candle; gives the file and the values that it decodes to, which
/// are compared by way of a Hub directory.
fn through_candle(tiny: &Tiny, dtype: GgmlDType, kind: u32) {
    let decoded = std::cell::RefCell::new(Vec::new());
    let file = GgufFile::new(tiny, |t| {
        let tensor = Candle::from_slice(&t.values, &t.shape[..], &Device::Cpu).expect("a tensor");
        let quantised = QTensor::quantize(&tensor, dtype).expect("quantises");
        let values = quantised.dequantize(&Device::Cpu).expect("decodes");
        let values = values.flatten_all().expect("flat").to_vec1::<f32>().expect("values");
        decoded.borrow_mut().push((t.name.clone(), values));
        (kind, quantised.data().expect("bytes").to_vec())
    });
    // Back to Hugging Face's order by brute force: the row that `permute` puts at i.
    let mut tensors = tiny.tensors();
    for (name, values) in decoded.into_inner() {
        let tensor = tensors.iter_mut().find(|t| t.name == name).expect("the tensor");
        let heads = match &name {
            n if n.contains("q_proj") => Some(tiny.heads),
            n if n.contains("k_proj") => Some(tiny.kv),
            _ => None,
        };
        tensor.values = match heads {
            None => values,
            Some(heads) => {
                let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
                let numbers: Vec<f32> = (0..rows).map(|i| i as f32).collect();
                let places = super::writer::permute(&numbers, heads, rows, 1);
                let mut back = vec![0.0; values.len()];
                for (i, &place) in places.iter().enumerate() {
                    let to = place as usize * cols;
                    back[to..to + cols].copy_from_slice(&values[i * cols..(i + 1) * cols]);
                }
                back
            }
        };
    }
    assert_same(&load_hub(tiny, &tensors), &load_gguf(&file));
}

#[test]
fn blocks_of_32_decode_as_candle_decodes_them() {
    let tiny = Tiny { hidden: 64, inner: 96, ..TINY };
    through_candle(&tiny, GgmlDType::Q4_0, 2);
    through_candle(&tiny, GgmlDType::Q4_1, 3);
    through_candle(&tiny, GgmlDType::Q5_0, 6);
    through_candle(&tiny, GgmlDType::Q5_1, 7);
    through_candle(&tiny, GgmlDType::Q8_0, 8);
}

#[test]
fn k_quants_decode_as_candle_decodes_them() {
    through_candle(&WIDE, GgmlDType::Q2K, 10);
    through_candle(&WIDE, GgmlDType::Q3K, 11);
    through_candle(&WIDE, GgmlDType::Q4K, 12);
    through_candle(&WIDE, GgmlDType::Q5K, 13);
    through_candle(&WIDE, GgmlDType::Q6K, 14);
    through_candle(&WIDE, GgmlDType::Q8K, 15);
}

/// One block of each simple type, written and decoded by hand from ggml's layout.
#[test]
fn simple_blocks_decode_by_their_definition() {
    let d = f16::from_f32(0.5);
    let m = f16::from_f32(-3.0);
    let nibbles: Vec<u8> = (0..16).map(|i| i | ((15 - i) << 4)).collect();
    let low_high = |i: usize| if i < 16 { i as f32 } else { 15.0 - (i - 16) as f32 };
    let fifth = 0xa5a5_0ff0u32;
    let bit = |i: usize| ((fifth >> i) & 1) as f32 * 16.0;
    let bytes = |parts: &[&[u8]]| parts.concat();
    let (d_, m_, h) = (d.to_le_bytes(), m.to_le_bytes(), fifth.to_le_bytes());
    let signed: Vec<u8> = (0..32).map(|i| (i * 7 - 100) as u8).collect();
    type Case<'a> = (u32, Vec<u8>, &'a dyn Fn(usize) -> f32);
    let cases: [Case; 5] = [
        (2, bytes(&[&d_, &nibbles]), &|i| (low_high(i) - 8.0) * 0.5),
        (3, bytes(&[&d_, &m_, &nibbles]), &|i| low_high(i) * 0.5 - 3.0),
        (6, bytes(&[&d_, &h, &nibbles]), &|i| (low_high(i) + bit(i) - 16.0) * 0.5),
        (7, bytes(&[&d_, &m_, &h, &nibbles]), &|i| (low_high(i) + bit(i)) * 0.5 - 3.0),
        (8, bytes(&[&d_, &signed]), &|i| (i as i32 * 7 - 100) as f32 * 0.5),
    ];
    for (kind, block, want) in cases {
        let mut file = GgufFile::float(&TINY, Dtype::F32);
        let tensor = file.tensor("token_embd.weight");
        (tensor.2, tensor.3) = (kind, block.repeat(24 * 64 / 32));
        let got = load_gguf(&file).embed_tokens;
        for (i, x) in got.as_slice().iter().enumerate() {
            assert_eq!(*x, bf16::from_f32(want(i % 32)), "type {kind}, element {i}");
        }
    }
}

#[test]
fn metadata_becomes_the_configuration() {
    let mut file = GgufFile::float(&ODD, Dtype::F32);
    let config = load_gguf(&file).config;
    assert_eq!(config.rms_norm_eps, 1e-5, "the decimal, not the f32 nearest to it");
    assert_eq!((config.rope_theta, config.head_dim), (1e4, 10));
    assert_eq!((config.vocab_size, config.tie_word_embeddings), (7, false));
    // Without the optional keys: hidden / heads, heads, 10000.
    for key in ["llama.rope.dimension_count", "llama.rope.freq_base"] {
        file.metadata.retain(|(k, _)| k != key);
    }
    assert_eq!(load_gguf(&file).config, config);
}

#[test]
fn arrays_are_read_where_they_lie() {
    let dir = tempdir().expect("a directory");
    let gguf = Gguf::open(&GgufFile::float(&TINY, Dtype::F32).write(dir.path())).expect("opens");
    let Some(Value::Array(tokens)) = gguf.metadata.get("tokenizer.ggml.tokens") else { panic!() };
    let tokens: Vec<_> = tokens.iter().map(|v| format!("{v:?}")).collect();
    assert_eq!(tokens, [r#"String("a")"#, r#"String("b")"#, r#"String("ab")"#]);
    let Some(Value::Array(types)) = gguf.metadata.get("tokenizer.ggml.token_type") else {
        panic!()
    };
    assert_eq!(types.len(), 3);
    assert!(types.iter().all(|v| matches!(v, Value::Int(1 | 3))));
}

#[track_caller]
fn refuses(edit: impl Fn(&mut GgufFile), parts: &[&str]) {
    let mut file = GgufFile::float(&TINY, Dtype::F32);
    edit(&mut file);
    let dir = tempdir().expect("a directory");
    let path = file.write(dir.path());
    refused(&path, &[&["model.gguf"], parts].concat());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let key = "general.architecture";
    refuses(|f| f.set(key, Meta::Str("gemma2")), &["architecture \"gemma2\""]);
    refuses(|f| f.set("llama.expert_count", Meta::U32(8)), &["llama.expert_count", "8"]);
    refuses(|f| f.set("llama.rope.scaling.type", Meta::Str("yarn")), &["rope scaling", "yarn"]);
    refuses(|f| f.set("llama.attention.head_count_kv", Meta::Ints(vec![2, 2])), &["each layer"]);
    refuses(|f| f.set("llama.rope.dimension_count", Meta::U32(8)), &[]);
    refuses(|f| f.set("llama.attention.value_length", Meta::U32(8)), &["value head"]);
    refuses(|f| f.set("split.count", Meta::U32(3)), &["3 files"]);
    refuses(|f| f.version = 1, &["GGUF version 1"]);
    refuses(|f| f.version = 4, &["GGUF version 4"]);
    refuses(|f| f.tensor("blk.0.attn_q.weight").2 = 16, &["tensor type 16"]);
    let extra = |name: &'static str| {
        move |f: &mut GgufFile| {
            f.tensors.push((name.into(), vec![8], 0, encode(Dtype::F32, &[1.0; 8])));
        }
    };
    refuses(extra("blk.0.attn_q.bias"), &["blk.0.attn_q.bias", "[8]", "[64]"]);
    refuses(extra("blk.0.ffn_up.bias"), &["blk.0.ffn_up.bias", "no place"]);
    // Unused experts and plain rope are no reason to refuse.
    let mut file = GgufFile::float(&TINY, Dtype::F32);
    file.set("llama.expert_count", Meta::U32(0));
    file.set("llama.rope.scaling.type", Meta::Str("none"));
    load_gguf(&file);
}

#[test]
fn rope_scaling_is_read() {
    let scaling = |edit: &dyn Fn(&mut GgufFile)| {
        let mut file = GgufFile::float(&TINY, Dtype::F32);
        edit(&mut file);
        load_gguf(&file).config.differences.rope_scaling
    };
    assert_eq!(scaling(&|_| ()), RopeScaling::None);
    let old = scaling(&|f| f.set("llama.rope.scale_linear", Meta::F32(2.0)));
    assert_eq!(old, RopeScaling::Linear { factor: 2.0 });
    let linear = scaling(&|f| {
        f.set("llama.rope.scaling.type", Meta::Str("linear"));
        f.set("llama.rope.scaling.factor", Meta::F32(4.0));
    });
    assert_eq!(linear, RopeScaling::Linear { factor: 4.0 });
    let whole = scaling(&|f| f.set("llama.rope.scaling.factor", Meta::U32(4)));
    assert_eq!(whole, RopeScaling::Linear { factor: 4.0 });
    let factors: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    let rope_freqs = |f: &mut GgufFile, factors: &[f32]| {
        let data = encode(Dtype::F32, factors);
        f.tensors.push(("rope_freqs.weight".into(), vec![factors.len()], 0, data));
    };
    let read = scaling(&|f| rope_freqs(f, &factors));
    assert_eq!(read, RopeScaling::Factors(factors.clone()));
    let both = |f: &mut GgufFile| {
        rope_freqs(f, &factors);
        f.set("llama.rope.scaling.type", Meta::Str("yarn"));
    };
    refuses(both, &["rope scaling", "yarn"]);
    let both = |f: &mut GgufFile| {
        rope_freqs(f, &factors);
        f.set("llama.rope.scaling.factor", Meta::F32(4.0));
    };
    refuses(both, &["rope_freqs.weight", "linear rope scaling by 4"]);
    refuses(|f| rope_freqs(f, &[1.0; 7]), &["rope_freqs.weight", "[7]", "[8]"]);
    refuses(|f| rope_freqs(f, &[0.0; 8]), &["rope_freqs.weight", "has 0"]);
    let linear = "llama.rope.scaling.type";
    refuses(|f| f.set(linear, Meta::Str("linear")), &["llama.rope.scaling.factor", "missing"]);
}

#[test]
fn wrong_keys_and_tensors_are_named() {
    for key in [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.embedding_length",
        "llama.feed_forward_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
    ] {
        refuses(|f| f.metadata.retain(|(k, _)| k != key), &[key, "missing"]);
    }
    refuses(|f| f.set("llama.block_count", Meta::U32(0)), &["llama.block_count"]);
    refuses(|f| f.set("llama.block_count", Meta::Str("two")), &["llama.block_count"]);
    refuses(|f| f.set("llama.block_count", Meta::U32(1)), &["blk.1.", "no place"]);
    refuses(|f| f.set("llama.block_count", Meta::U32(4000)), &["blk.2.", "missing"]);
    let k = "blk.1.attn_k.weight";
    refuses(|f| f.tensors.retain(|t| t.0 != k), &[k, "missing"]);
    refuses(|f| f.tensor(k).1 = vec![64, 32], &[k, "[64, 32]", "[32, 64]"]);
    refuses(|f| f.tensor(k).3[400..404].copy_from_slice(&f32::NAN.to_le_bytes()), &[k, "is NaN"]);
    refuses(
        |f| f.tensor("output_norm.weight").3[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes()),
        &["output_norm.weight", "element 2 is inf"],
    );
    refuses(|f| f.metadata.push(("llama.block_count".into(), Meta::U32(2))), &["twice"]);
    refuses(|f| f.tensors.push(f.tensors[0].clone()), &["twice"]);
}
