//! A tiny random Llama, adapters and batches for it.

use std::sync::{Arc, OnceLock};

use dayrun::adapter::{Adapter, LoraConfig, Names, Patterns, TargetModules};
use dayrun::device::cpu::{Cpu, Level};
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::{Linear, LlamaConfig};
use dayrun::model::weights::{Dense, LayerWeights, Matrix, Weights};
use dayrun::quant::{double_quantise, quantise};
use half::bf16;

use crate::common::Rng;

/// Odd vocabulary, grouped queries; `hidden` 64 or 96 (the attention's width is 64 in both).
pub fn config(hidden: usize, tied: bool) -> LlamaConfig {
    LlamaConfig {
        vocab_size: 259,
        hidden_size: hidden,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 16,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        max_position_embeddings: 600,
        tie_word_embeddings: tied,
        differences: Default::default(),
    }
}

/// With heads of 64, as GPU kernels take them; the attention is wider than the hidden state.
pub fn wide_config(tied: bool) -> LlamaConfig {
    LlamaConfig {
        hidden_size: 72,
        intermediate_size: 136,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 64,
        ..config(64, tied)
    }
}

fn dense(rows: usize, cols: usize, values: Vec<f64>) -> Dense {
    let values: Vec<bf16> = values.into_iter().map(bf16::from_f64).collect();
    Dense::new(rows, cols, bytemuck::cast_slice::<bf16, u8>(&values).to_vec().into())
}

/// Weights scaled so that attention is peaked and logits have a standard deviation of about 2.
pub fn weights(hidden: usize, tied: bool) -> Arc<Weights> {
    weights_of(config(hidden, tied))
}

/// The same with linears that are not quantised again: those of the first layer by turns in NF4, bf16 and f32,
/// those of the second all in bf16.
pub fn mixed(weights: &Weights) -> Arc<Weights> {
    let mut weights = weights.clone();
    for (i, layer) in weights.layers.iter_mut().enumerate() {
        for (j, linear) in layer.linears.iter_mut().enumerate() {
            let Some(w) = linear.as_nf4() else { continue };
            let (rows, cols, values) = (w.rows, w.cols, w.to_f32());
            *linear = match (i, j % 3) {
                (0, 0) => continue,
                (0, 2) => {
                    let bytes = values.iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<u8>>();
                    Matrix::F32(Dense::new(rows, cols, bytes.into()))
                }
                _ => dense(rows, cols, values.into_iter().map(f64::from).collect()).into(),
            };
        }
    }
    Arc::new(weights)
}

/// As [`weights`], of any shape with two layers.
pub fn weights_of(config: LlamaConfig) -> Arc<Weights> {
    let (hidden, tied) = (config.hidden_size, config.tie_word_embeddings);
    let mut rng = Rng::new(hidden as u64 + u64::from(tied));
    let mut layer = || LayerWeights {
        input_layernorm: dense(1, hidden, rng.around_one(hidden)),
        post_attention_layernorm: dense(1, hidden, rng.around_one(hidden)),
        linears: Linear::ALL.map(|linear| {
            let (rows, cols) = linear.shape(&config);
            let gain = if matches!(linear, Linear::Q | Linear::K) { 1.5 } else { 1.0 };
            let scale = gain / (cols as f64).sqrt();
            let values: Vec<f32> =
                rng.values(rows * cols, scale).into_iter().map(|x| x as f32).collect();
            double_quantise(quantise(rows, cols, &values).unwrap()).into()
        }),
        // Half as large again: heads of norm 4 have scores of at most 4 without.
        qk_norm: config.differences.qk_norm.then(|| {
            [(); 2].map(|()| {
                let values = rng.around_one(config.head_dim).into_iter().map(|x| 1.5 * x);
                dense(1, config.head_dim, values.collect())
            })
        }),
        biases: Linear::ALL.map(|linear| {
            let out = linear.shape(&config).0;
            config.has_bias(linear).then(|| dense(1, out, rng.values(out, 0.5)))
        }),
    };
    let layers = vec![layer(), layer()];
    let scale = 2.0 / (hidden as f64).sqrt();
    let vocab = config.vocab_size;
    let norm = dense(1, hidden, rng.around_one(hidden));
    let mut table = || dense(vocab, hidden, rng.values(vocab * hidden, scale));
    let embed_tokens = table();
    let lm_head = (!tied).then(table);
    Arc::new(Weights { config, embed_tokens, layers, norm, lm_head, identity: "tiny".into() })
}

/// An adapter whose B is not zero: what it adds is about a third of what the base gives.
pub fn adapter(config: &LlamaConfig, r: usize, targets: &[Linear], seed: u64) -> Adapter {
    let lora = LoraConfig {
        r,
        lora_alpha: 2.5 * r as f64,
        target_modules: TargetModules::list(targets.iter().map(|linear| linear.name())),
        ..LoraConfig::default()
    };
    adapter_of(lora, config, seed)
}

/// As [`adapter`], of all linears, with ranks and scales of their own: among those that share an input
/// some alike and some not, some ranks above 16, one linear in one layer only.
pub fn uneven(seed: u64) -> LoraConfig {
    let pairs =
        |all: &[(&str, usize)]| all.iter().map(|(name, r)| (name.to_string(), *r)).collect();
    let alphas = [("0.self_attn.k_proj", 3.0), ("v_proj", 40.0), ("1.mlp.down_proj", 7.5)];
    LoraConfig {
        r: 4 + (seed % 2) as usize,
        lora_alpha: 10.0,
        exclude_modules: Some(Names::List(vec!["0.mlp.gate_proj".into()])),
        rank_pattern: Patterns(pairs(&[("v_proj", 17), ("1.self_attn.q_proj", 2), ("up_proj", 9)])),
        alpha_pattern: Patterns(alphas.map(|(name, alpha)| (name.to_string(), alpha)).to_vec()),
        ..LoraConfig::default()
    }
}

/// As [`adapter`], of any configuration.
pub fn adapter_of(lora: LoraConfig, config: &LlamaConfig, seed: u64) -> Adapter {
    let mut adapter = Adapter::new(lora, config, seed).unwrap();
    let mut rng = Rng::new(seed);
    for module in &adapter.modules {
        for x in &mut adapter.params[module.b_range()] {
            *x = (0.2 * rng.normal() / (module.r as f64).sqrt()) as f32;
        }
    }
    adapter
}

/// Documents of the given lengths, the same tokens for the same seed.
pub fn documents(lens: &[usize], seed: u64) -> Vec<Vec<u32>> {
    let mut rng = Rng::new(seed);
    lens.iter().map(|&len| (0..len).map(|_| rng.below(259) as u32).collect()).collect()
}

/// Documents packed into a micro-batch; every third token of a document (never its first) has no
/// loss.
pub fn pack(documents: &[Vec<u32>]) -> MicroBatch {
    let mut batch = MicroBatch { cu_seqlens: vec![0], ..MicroBatch::default() };
    for document in documents {
        let start = batch.tokens.len() as u32;
        batch.tokens.extend(document);
        batch.position_ids.extend(0..document.len() as u32);
        batch.cu_seqlens.push(batch.tokens.len() as u32);
        for (i, pair) in document.windows(2).enumerate().filter(|(i, _)| i % 3 != 1) {
            batch.loss_positions.push(start + i as u32);
            batch.targets.push(pair[1]);
        }
    }
    batch
}

/// Every device of the tests: each instruction set with one thread and with two; see also [`four_threads`].
pub fn cpus() -> &'static [Arc<Cpu>] {
    static CPUS: OnceLock<Vec<Arc<Cpu>>> = OnceLock::new();
    CPUS.get_or_init(|| {
        Level::available()
            .flat_map(|level| [1, 2].map(|threads| Arc::new(Cpu::with_level(level, threads))))
            .collect()
    })
}

/// The devices of [`cpus`] with four threads.
pub fn four_threads() -> impl Iterator<Item = Cpu> {
    Level::available().map(|level| Cpu::with_level(level, 4))
}

/// The best instruction set, two threads.
pub fn cpu() -> Arc<Cpu> {
    cpus()[1].clone()
}
