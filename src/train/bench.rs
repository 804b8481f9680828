//! The training step, measured: tokens a second, and the share of what the machine can do.

use crate::Error;
use crate::adapter::{Adapter, LoraConfig};
use crate::device::cpu::{GemmElement, peak};
use crate::device::memory::Placement;
use crate::model::batch::MicroBatch;
use crate::model::config::{Linear, LlamaConfig};
use crate::rng::Rng;
use crate::train::{Base, Trainer, TrainerOptions};

/// What is measured: `batch` documents of `seq` tokens, every one of them with loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BenchOptions {
    pub batch: usize,
    pub seq: usize,
    pub warmup: usize,
    pub steps: usize,
    pub r: usize,
}

/// What a benchmark of training found.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TrainBench {
    /// Tokens a second: the median of the measured steps.
    pub tok_s: f64,
    /// The most memory that the process has had, 10⁹ bytes.
    pub rss_gb: f64,
    /// `tok_s · flops_per_token` over the peak.
    pub peak_fraction: f64,
    /// FLOP/s of the multipliers, before and after the steps, the better one.
    pub peak_flops: f64,
    pub flops_per_token: f64,
    pub seconds_per_op: Vec<(String, f64)>,
    pub step_seconds: Vec<f64>,
}

/// Operations a token: 4·(linear weights + computed head weights) + 6·LoRA weights + 7·S·hidden per
/// layer for causal attention over length S. The head counts for positions with loss only.
pub fn flops_per_token(config: &LlamaConfig, adapter: usize, seq: usize, loss_share: f64) -> f64 {
    let weights = |linear: Linear| {
        let (n_out, n_in) = linear.shape(config);
        (n_out * n_in) as f64
    };
    let layers = config.num_hidden_layers as f64;
    let linears = layers * Linear::ALL.map(weights).iter().sum::<f64>();
    let head = (config.vocab_size * config.hidden_size) as f64 * loss_share;
    let width = (config.num_attention_heads * config.head_dim) as f64;
    4.0 * (linears + head) + 6.0 * adapter as f64 + layers * 7.0 * seq as f64 * width
}

/// Trains a fresh adapter on random tokens and times it.
pub fn train<E: GemmElement>(base: &Base, options: &BenchOptions) -> Result<TrainBench, Error> {
    let BenchOptions { batch, seq, warmup, steps, r } = *options;
    let config = &base.weights.config;
    let lora = LoraConfig {
        r,
        lora_alpha: 2.0 * r as f64,
        use_rslora: false,
        target_modules: Linear::ALL.map(|linear| linear.name().to_string()).to_vec(),
    };
    let adapter = Adapter::new(lora, config, 0);
    let parameters = adapter.params.len();
    let micro_batch = random_batch(config.vocab_size, batch, seq);
    let trainer_options = TrainerOptions {
        micro_batch_tokens: batch * seq,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        placement: Placement::Packed,
    };
    let before = peak::bf16_flops_per_second(&base.cpu);
    let mut trainer = Trainer::<E>::new(&base.model(), adapter, trainer_options)?;
    let batches = [micro_batch];
    for _ in 0..warmup {
        trainer.step(&batches, 1e-4)?;
    }
    let start: Vec<(&'static str, f64)> = trainer.times().to_vec();
    let mut step_seconds = Vec::new();
    for _ in 0..steps {
        step_seconds.push(trainer.step(&batches, 1e-4)?.seconds);
    }
    let per_step = |(&(name, end), (_, begin)): (&(&'static str, f64), (&'static str, f64))| {
        (name.to_string(), (end - begin) / steps as f64)
    };
    let seconds_per_op = trainer.times().iter().zip(start).map(per_step).collect();
    let peak_flops = before.max(peak::bf16_flops_per_second(&base.cpu));
    let loss_share = batches[0].targets.len() as f64 / (batch * seq) as f64;
    let flops_per_token = flops_per_token(config, parameters, seq, loss_share);
    let tok_s = (batch * seq) as f64 / median(&step_seconds);
    Ok(TrainBench {
        tok_s,
        rss_gb: super::run_dir::peak_rss_bytes().unwrap_or(0) as f64 / 1e9,
        peak_fraction: tok_s * flops_per_token / peak_flops,
        peak_flops,
        flops_per_token,
        seconds_per_op,
        step_seconds,
    })
}

fn random_batch(vocab: usize, batch: usize, seq: usize) -> MicroBatch {
    let rng = Rng::new(&[0]);
    let mut result = MicroBatch { cu_seqlens: vec![0], ..MicroBatch::default() };
    for row in 0..batch {
        let start = (row * seq) as u32;
        let token = |i: u64| (rng.unit(i) * vocab as f64) as u32;
        let tokens: Vec<u32> = (0..seq as u64).map(|i| token((row * seq) as u64 + i)).collect();
        result.position_ids.extend(0..seq as u32);
        result.loss_positions.extend(start..start + seq as u32 - 1);
        result.targets.extend(&tokens[1..]);
        result.tokens.extend(tokens);
        result.cu_seqlens.push(start + seq as u32);
    }
    result
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}
