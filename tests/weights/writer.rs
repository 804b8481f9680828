//! A small random Llama, and its files in each format.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Shapes of a small model; names as in config.json.
#[derive(Clone)]
pub struct Tiny {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv: usize,
    pub head_dim: usize,
    pub tied: bool,
}

pub const TINY: Tiny =
    Tiny { vocab: 24, hidden: 64, inner: 96, layers: 2, heads: 4, kv: 2, head_dim: 16, tied: true };

/// Rows that end within a block of 64, odd sizes, a head of its own.
pub const ODD: Tiny =
    Tiny { vocab: 7, hidden: 30, inner: 21, layers: 1, heads: 3, kv: 1, head_dim: 10, tied: false };

/// A tensor in f32 under its Hugging Face name.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tiny {
    /// Values are multiples of 1/64 in ±2 with 8 significant bits: exact in bf16 and f16.
    pub fn tensors(&self) -> Vec<Tensor> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut out = Vec::new();
        let mut add = |name: String, shape: &[usize]| {
            let values = (0..shape.iter().product())
                .map(|_| {
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    ((state >> 56) as f32 - 128.0) / 64.0
                })
                .collect();
            out.push(Tensor { name, shape: shape.to_vec(), values });
        };
        let (q, kv) = (self.heads * self.head_dim, self.kv * self.head_dim);
        let (hidden, inner) = (self.hidden, self.inner);
        add("model.embed_tokens.weight".into(), &[self.vocab, hidden]);
        for i in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![hidden]),
                ("self_attn.q_proj", vec![q, hidden]),
                ("self_attn.k_proj", vec![kv, hidden]),
                ("self_attn.v_proj", vec![kv, hidden]),
                ("self_attn.o_proj", vec![hidden, q]),
                ("post_attention_layernorm", vec![hidden]),
                ("mlp.gate_proj", vec![inner, hidden]),
                ("mlp.up_proj", vec![inner, hidden]),
                ("mlp.down_proj", vec![hidden, inner]),
            ] {
                add(format!("model.layers.{i}.{name}.weight"), &shape);
            }
        }
        add("model.norm.weight".into(), &[hidden]);
        if !self.tied {
            add("lm_head.weight".into(), &[self.vocab, hidden]);
        }
        out
    }

    pub fn config(&self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv,
            "head_dim": self.head_dim,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 128,
            "tie_word_embeddings": self.tied,
            "rope_scaling": null,
        })
    }
}

/// Little-endian bytes of `values` in a float type.
pub fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        other => panic!("no encoding for {other:?}"),
    }
}

/// A tensor as a safetensors file holds it: name, dtype, shape, bytes.
pub type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

pub fn stored(dtype: Dtype, tensors: &[Tensor]) -> Vec<Stored> {
    let one = |t: &Tensor| (t.name.clone(), dtype, t.shape.clone(), encode(dtype, &t.values));
    tensors.iter().map(one).collect()
}

pub fn write_safetensors(path: &Path, tensors: &[Stored]) {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("a view"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("serialises")).expect("writes");
}

/// A directory with config.json and one safetensors file.
pub fn write_hub(dir: &Path, config: &Value, tensors: &[Stored]) {
    fs::write(dir.join("config.json"), config.to_string()).expect("writes");
    write_safetensors(&dir.join("model.safetensors"), tensors);
}

/// As [`write_hub`], in shards of a few tensors each.
pub fn write_shards(dir: &Path, config: &Value, tensors: &[Stored]) {
    fs::write(dir.join("config.json"), config.to_string()).expect("writes");
    let mut map = serde_json::Map::new();
    let count = tensors.len().div_ceil(5);
    for (i, shard) in tensors.chunks(5).enumerate() {
        let file = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        write_safetensors(&dir.join(&file), shard);
        map.extend(shard.iter().map(|t| (t.0.clone(), json!(file))));
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(dir.join("model.safetensors.index.json"), index.to_string()).expect("writes");
}

/// A metadata value of a GGUF file.
#[derive(Clone)]
pub enum Meta {
    U32(u32),
    F32(f32),
    Str(&'static str),
    Strings(Vec<&'static str>),
    Ints(Vec<u32>),
}

/// A GGUF file being put together; every part can be changed before it is written.
#[derive(Clone)]
pub struct GgufFile {
    pub version: u32,
    pub metadata: Vec<(String, Meta)>,
    /// Name, dimensions slowest first, ggml type, bytes.
    pub tensors: Vec<(String, Vec<usize>, u32, Vec<u8>)>,
}

impl GgufFile {
    /// The model as llama.cpp's converter writes it, all matrices through `encode`.
    pub fn new(tiny: &Tiny, encode: impl Fn(&Tensor) -> (u32, Vec<u8>)) -> Self {
        let meta = |key: &str, value| (key.to_string(), value);
        let metadata = vec![
            meta("general.architecture", Meta::Str("llama")),
            meta("llama.block_count", Meta::U32(tiny.layers as u32)),
            meta("llama.context_length", Meta::U32(128)),
            meta("llama.embedding_length", Meta::U32(tiny.hidden as u32)),
            meta("llama.feed_forward_length", Meta::U32(tiny.inner as u32)),
            meta("llama.attention.head_count", Meta::U32(tiny.heads as u32)),
            meta("llama.attention.head_count_kv", Meta::U32(tiny.kv as u32)),
            meta("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
            meta("llama.rope.freq_base", Meta::F32(10000.0)),
            meta("llama.rope.dimension_count", Meta::U32(tiny.head_dim as u32)),
            meta("tokenizer.ggml.tokens", Meta::Strings(vec!["a", "b", "ab"])),
            meta("tokenizer.ggml.token_type", Meta::Ints(vec![3, 1, 1])),
        ];
        let tensors = tiny.tensors().into_iter().map(|mut t| {
            if t.name.contains("q_proj") {
                t.values = permute(&t.values, tiny.heads, t.shape[0], t.shape[1]);
            } else if t.name.contains("k_proj") {
                t.values = permute(&t.values, tiny.kv, t.shape[0], t.shape[1]);
            }
            // The converter keeps vectors in F32.
            let (kind, bytes) = match t.shape.len() {
                1 => (0, self::encode(Dtype::F32, &t.values)),
                _ => encode(&t),
            };
            (ggml_name(&t.name), t.shape, kind, bytes)
        });
        Self { version: 3, metadata, tensors: tensors.collect() }
    }

    pub fn float(tiny: &Tiny, dtype: Dtype) -> Self {
        let kind = match dtype {
            Dtype::F32 => 0,
            Dtype::F16 => 1,
            _ => 30,
        };
        Self::new(tiny, |t| (kind, encode(dtype, &t.values)))
    }

    pub fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
    }

    pub fn tensor(&mut self, name: &str) -> &mut (String, Vec<usize>, u32, Vec<u8>) {
        self.tensors.iter_mut().find(|t| t.0 == name).expect("the tensor")
    }

    pub fn bytes(&self) -> Vec<u8> {
        let string = |out: &mut Vec<u8>, s: &str| {
            out.extend((s.len() as u64).to_le_bytes());
            out.extend(s.as_bytes());
        };
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            string(&mut out, key);
            match value {
                Meta::U32(n) => {
                    out.extend(4u32.to_le_bytes());
                    out.extend(n.to_le_bytes());
                }
                Meta::F32(x) => {
                    out.extend(6u32.to_le_bytes());
                    out.extend(x.to_le_bytes());
                }
                Meta::Str(s) => {
                    out.extend(8u32.to_le_bytes());
                    string(&mut out, s);
                }
                Meta::Strings(all) => {
                    out.extend(9u32.to_le_bytes());
                    out.extend(8u32.to_le_bytes());
                    out.extend((all.len() as u64).to_le_bytes());
                    all.iter().for_each(|s| string(&mut out, s));
                }
                Meta::Ints(all) => {
                    out.extend(9u32.to_le_bytes());
                    out.extend(4u32.to_le_bytes());
                    out.extend((all.len() as u64).to_le_bytes());
                    all.iter().for_each(|n| out.extend(n.to_le_bytes()));
                }
            }
        }
        let mut offset = 0u64;
        for (name, shape, kind, data) in &self.tensors {
            string(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|d| out.extend((*d as u64).to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += data.len().next_multiple_of(32) as u64;
        }
        out.resize(out.len().next_multiple_of(32), 0);
        for (_, _, _, data) in &self.tensors {
            out.extend(data);
            out.resize(out.len().next_multiple_of(32), 0);
        }
        out
    }

    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("model.gguf");
        fs::write(&path, self.bytes()).expect("writes");
        path
    }
}

/// What llama.cpp's converter does to q and k: of `[heads, 2, d/2, cols]` the middle two axes
/// change places.
pub fn permute(values: &[f32], heads: usize, rows: usize, cols: usize) -> Vec<f32> {
    let half = rows / heads / 2;
    let mut out = Vec::new();
    for head in 0..heads {
        for i in 0..half {
            for j in 0..2 {
                let row = (head * 2 + j) * half + i;
                out.extend(&values[row * cols..(row + 1) * cols]);
            }
        }
    }
    out
}

fn ggml_name(name: &str) -> String {
    let part = |suffix: &str| match suffix {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        other => panic!("{other}"),
    };
    match name {
        "model.embed_tokens.weight" => "token_embd.weight".into(),
        "model.norm.weight" => "output_norm.weight".into(),
        "lm_head.weight" => "output.weight".into(),
        name => {
            let rest = name.trim_start_matches("model.layers.").trim_end_matches(".weight");
            let (layer, suffix) = rest.split_once('.').expect("a layer");
            format!("blk.{layer}.{}.weight", part(suffix))
        }
    }
}
