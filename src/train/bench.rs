//! The training step, measured: tokens a second, and the share of what the machine can do.

use serde::Serialize;

use crate::Error;
use crate::adapter::{Adapter, LoraConfig};
use crate::data::Dataset;
use crate::data::dataset::Document;
use crate::data::pack::{Epoch, PackStats};
use crate::device::cpu::{GemmElement, peak};
use crate::device::memory::Placement;
use crate::model::batch::MicroBatch;
use crate::model::config::{Linear, LlamaConfig};
use crate::progress::{Progress, Report};
use crate::rng::Rng;
use crate::train::{Base, Trainer, TrainerOptions, run_dir};

/// What is measured: documents of random tokens, all but the first of each with loss.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchOptions {
    /// Tokens of each document, in order; they are packed into micro-batches as `dayrun train` does.
    pub lengths: Vec<usize>,
    pub micro_batch_tokens: usize,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps of one micro-batch each. Beyond the last micro-batch they begin again.
    pub steps: usize,
    /// Rank of the adapter, which is on all linears.
    pub r: usize,
}

/// What a benchmark of training found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainBench {
    /// Real tokens a second: the median over the measured steps.
    pub tok_s: f64,
    /// The most memory that the process has had, in 10⁹ bytes; `None` where the system does not tell.
    pub rss_gb: Option<f64>,
    /// See [`peak_fraction`]; `None` on a GPU, whose peak is not measured.
    pub peak_fraction: Option<f64>,
    /// What the cores multiply at most, in 10⁹ FLOP/s ([`peak::bf16_flops_per_second`]).
    pub peak_gflop_s: Option<f64>,
    /// Mean over the measured steps.
    pub flops_per_token: f64,
    /// Seconds of a mean step in each kind of op, and outside of them all.
    pub seconds_per_op: serde_json::Map<String, serde_json::Value>,
    /// Seconds of each measured step.
    pub step_seconds: Vec<f64>,
    pub tokens_per_step: f64,
    pub documents: usize,
    pub micro_batch_tokens: usize,
    pub r: usize,
    pub compute_dtype: &'static str,
    /// How the base's linears are held.
    pub weights: String,
    pub device: String,
    pub threads: usize,
    pub dayrun_version: &'static str,
}

/// Operations that a step needs: for each token 4·(linear weights) + 6·(LoRA weights) + 7·S·hidden per layer
/// for causal attention over a document of S tokens, and 4·(head weights) for each position with loss.
///
/// Multiplications and additions count as two; the frozen weights have no gradient, so their products are
/// made once forward and once backward, and the adapter's a third time. `hidden` is the attention's
/// width, heads · head_dim. Decoding, norms, exponentials and what is computed again count nothing.
pub fn flops(
    config: &LlamaConfig,
    lora_weights: usize,
    documents: impl Iterator<Item = usize>,
    loss_positions: usize,
) -> f64 {
    let layers = config.num_hidden_layers as f64;
    let sizes = Linear::ALL.map(|linear| linear.shape(config));
    let linears = layers * sizes.map(|(n_out, n_in)| (n_out * n_in) as f64).iter().sum::<f64>();
    let head = (config.vocab_size * config.hidden_size) as f64;
    let width = (config.num_attention_heads * config.head_dim) as f64;
    let per_token = 4.0 * linears + 6.0 * lora_weights as f64;
    let of_document = |s: usize| s as f64 * (per_token + layers * 7.0 * s as f64 * width);
    documents.map(of_document).sum::<f64>() + 4.0 * head * loss_positions as f64
}

/// The share of the machine's peak that a rate of useful operations makes.
pub fn peak_fraction(tokens_per_second: f64, flops_per_token: f64, peak_flop_s: f64) -> f64 {
    tokens_per_second * flops_per_token / peak_flop_s
}

/// Trains a fresh adapter on random tokens and times every step.
pub fn train<E: GemmElement>(
    base: &Base,
    options: &BenchOptions,
    report: Report,
) -> Result<TrainBench, Error> {
    let BenchOptions { warmup, steps, r, micro_batch_tokens, .. } = *options;
    let config = &base.weights.config;
    let dataset = random_documents(config.vocab_size, &options.lengths);
    let batches = Epoch::new(&dataset, micro_batch_tokens, 0, 0)?.batches(&dataset.documents)?;
    let adapter = Adapter::new(lora_config(r), config, 0)?;
    let lora_weights = adapter.params.len();
    let peak = || (!base.device.is_gpu()).then(|| peak::bf16_flops_per_second(&base.cpu));
    let before = peak();
    let mut trainer =
        Trainer::<E>::new(&base.model(), adapter, trainer_options(micro_batch_tokens))?;
    let mut steps_left = batches.iter().cycle();
    let mut step = |trainer: &mut Trainer<E>, done: usize| -> Result<_, Error> {
        let batch = steps_left.next().map_or(&[][..], std::slice::from_ref);
        let (stage, total) = ("measuring", (warmup + steps) as u64);
        let result = trainer.step(batch, 1e-4)?;
        report(Progress { stage, done: done as u64 + 1, total, unit: "steps" });
        Ok((result, work(config, lora_weights, batch)))
    };
    for i in 0..warmup {
        step(&mut trainer, i)?;
    }
    let begin = trainer.times().to_vec();
    let (mut step_seconds, mut rates, mut tokens, mut work) = (Vec::new(), Vec::new(), 0, 0.0);
    for i in 0..steps {
        let (step, flops) = step(&mut trainer, warmup + i)?;
        step_seconds.push(step.seconds);
        rates.push(step.tokens as f64 / step.seconds);
        tokens += step.tokens;
        work += flops;
    }
    let seconds_per_op = seconds_per_op(&begin, trainer.times(), &step_seconds);
    let peak = before.zip(peak()).map(|(before, after)| before.max(after));
    let (tok_s, flops_per_token) = (median(&rates), work / tokens as f64);
    Ok(TrainBench {
        tok_s,
        rss_gb: run_dir::peak_rss_bytes().map(|bytes| bytes as f64 / 1e9),
        peak_fraction: peak.map(|peak| peak_fraction(tok_s, flops_per_token, peak)),
        peak_gflop_s: peak.map(|peak| peak / 1e9),
        flops_per_token,
        seconds_per_op,
        step_seconds,
        tokens_per_step: tokens as f64 / steps as f64,
        documents: PackStats::of(&batches, micro_batch_tokens).documents,
        micro_batch_tokens,
        r,
        compute_dtype: E::NAME,
        weights: base.weights.held(),
        device: base.device.name(),
        threads: base.cpu.threads(),
        dayrun_version: env!("CARGO_PKG_VERSION"),
    })
}

fn lora_config(r: usize) -> LoraConfig {
    LoraConfig { r, lora_alpha: 2.0 * r as f64, ..LoraConfig::default() }
}

fn trainer_options(micro_batch_tokens: usize) -> TrainerOptions {
    TrainerOptions {
        micro_batch_tokens,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        neftune_alpha: 0.0,
        seed: 0,
        placement: Placement::Packed,
    }
}

/// [`flops`] of a step over these micro-batches.
fn work(config: &LlamaConfig, lora_weights: usize, batches: &[MicroBatch]) -> f64 {
    let of_batch = |batch: &MicroBatch| {
        let documents = batch.cu_seqlens.windows(2).map(|d| (d[1] - d[0]) as usize);
        flops(config, lora_weights, documents, batch.targets.len())
    };
    batches.iter().map(of_batch).sum()
}

/// Documents of these lengths; the same for the same lengths.
fn random_documents(vocab: usize, lengths: &[usize]) -> Dataset {
    let rng = Rng::new(&[0]);
    let mut place = 0;
    let document = |&length: &usize| {
        let tokens = (place..place + length as u64).map(|i| rng.below(i, vocab as u64) as u32);
        let document = Document { tokens: tokens.collect(), loss_mask: vec![true; length] };
        place += length as u64;
        document
    };
    Dataset::of(&lengths.iter().map(document).collect::<Vec<_>>())
}

/// The mean step: what each kind of op took, and what none of them did.
pub(super) fn seconds_per_op(
    begin: &[(&'static str, f64)],
    end: &[(&'static str, f64)],
    step_seconds: &[f64],
) -> serde_json::Map<String, serde_json::Value> {
    let steps = step_seconds.len() as f64;
    let mut outside = step_seconds.iter().sum::<f64>() / steps;
    let mut result = serde_json::Map::new();
    for (i, (name, end)) in end.iter().enumerate() {
        let seconds = (end - begin.get(i).map_or(0.0, |(_, seconds)| *seconds)) / steps;
        outside -= seconds;
        result.insert(name.to_string(), seconds.into());
    }
    result.insert("outside ops".into(), outside.into());
    result
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 1) => sorted[middle],
        (middle, _) => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn smollm2() -> LlamaConfig {
        LlamaConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rms_norm_eps: 1e-5,
            rope_theta: 100_000.0,
            max_position_embeddings: 8192,
            tie_word_embeddings: true,
            differences: Default::default(),
        }
    }

    /// Against the count by hand: SmolLM2-135M, r = 16 on all linears.
    #[test]
    fn operations_of_a_step() {
        let config = smollm2();
        let lora = Adapter::new(lora_config(16), &config, 0).unwrap().params.len();
        // 16·(in + out) of q, k, v, o, gate, up, down.
        assert_eq!(lora, 30 * 16 * (1152 + 768 + 768 + 1152 + 2112 + 2112 + 2112));
        let linears = 30.0 * (2.0 * 576.0 * 576.0 + 2.0 * 576.0 * 192.0 + 3.0 * 576.0 * 1536.0);
        assert_eq!(linears, 106_168_320.0);
        let token = 4.0 * linears + 6.0 * lora as f64;
        let attention = 30.0 * 7.0 * 512.0 * 576.0;
        let head = 4.0 * 49_152.0 * 576.0;
        let got = flops(&config, lora, [512].into_iter(), 511);
        assert_eq!(got, 512.0 * (token + attention) + 511.0 * head);
        // Two documents are not one of twice the length; without loss there is no head.
        let got = flops(&config, lora, [512, 512].into_iter(), 0);
        assert_eq!(got, 1024.0 * (token + attention));
        assert_eq!(flops(&config, lora, [].into_iter(), 0), 0.0);
    }

    /// Causal attention of S tokens: S²/2 pairs, each 4 operations a channel forward and 10 backward.
    #[test]
    fn attention_counts_the_pairs_that_are_seen() {
        let config = LlamaConfig { vocab_size: 0, ..smollm2() };
        let of = |s: usize| flops(&config, 0, [s].into_iter(), 0);
        let (s, width, layers) = (1024.0, 576.0, 30.0);
        let pairs = s * s / 2.0;
        // Twice the tokens have twice the linears' work: the difference is attention's alone.
        let attention = of(1024) - 2.0 * of(512);
        let want = layers * width * 14.0 * (pairs - pairs / 2.0);
        assert!((attention / want - 1.0).abs() < 1e-12, "{attention} and {want}");
    }

    #[test]
    fn the_share_of_the_peak() {
        assert_eq!(peak_fraction(500.0, 6e8, 4e11), 0.75);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_mean_step_by_ops() {
        let begin = [("a", 1.0), ("b", 2.0)];
        let end = [("a", 3.0), ("b", 2.5)];
        let result = seconds_per_op(&begin, &end, &[2.0, 1.0]);
        assert_eq!(result["a"], 1.0);
        assert_eq!(result["b"], 0.25);
        assert_eq!(result["outside ops"], 0.25);
    }

    #[test]
    fn documents_have_the_lengths_asked_for() {
        let dataset = random_documents(259, &[3, 1, 7]);
        let store = &dataset.documents;
        let documents: Vec<_> = (0..store.len()).filter_map(|i| store.get(i).ok()).collect();
        let lengths: Vec<_> = documents.iter().map(|d| d.tokens.len()).collect();
        assert_eq!(lengths, [3, 1, 7]);
        assert!(documents.iter().flat_map(|d| &d.tokens).all(|&token| token < 259));
        assert_ne!(documents[0].tokens, documents[2].tokens[..3]);
    }
}
