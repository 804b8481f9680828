//! The whole training step: two layers and the head of SmolLM2-135M's widths, random weights.
//!
//! Elements a second are FLOP/s of the operations that a step needs (`train::bench::flops`); the peak
//! that they are held against is measured in the same run and printed before and after.

use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dayrun::adapter::{Adapter, LoraConfig};
use dayrun::data::pack::Epoch;
use dayrun::data::{Dataset, Document};
use dayrun::device::cpu::{Cpu, peak};
use dayrun::device::memory::Placement;
use dayrun::model::Loaded;
use dayrun::model::config::{Linear, LlamaConfig};
use dayrun::model::weights::{Dense, LayerWeights, Weights};
use dayrun::quant::{double_quantise, quantise};
use dayrun::rng::Rng;
use dayrun::train::{Trainer, TrainerOptions, bench};
use half::bf16;

fn config() -> LlamaConfig {
    LlamaConfig {
        vocab_size: 49_152,
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 2,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        max_position_embeddings: 2048,
        tie_word_embeddings: true,
        differences: Default::default(),
    }
}

/// Uniform values of the size that keeps activations' variance.
fn values(rows: usize, cols: usize, key: u64) -> Vec<f32> {
    let (rng, scale) = (Rng::new(&[key]), (3.0 / cols as f64).sqrt());
    let value = |i| ((2.0 * rng.unit(i) - 1.0) * scale) as f32;
    (0..(rows * cols) as u64).map(value).collect()
}

fn dense(rows: usize, cols: usize, values: impl Iterator<Item = f32>) -> Dense {
    let values: Vec<bf16> = values.map(bf16::from_f32).collect();
    Dense::new(rows, cols, bytemuck::cast_slice::<bf16, u8>(&values).to_vec().into())
}

fn weights() -> Weights {
    let config = config();
    let hidden = config.hidden_size;
    let ones = || dense(1, hidden, std::iter::repeat_n(1.0, hidden));
    let layer = |i: usize| LayerWeights {
        input_layernorm: ones(),
        post_attention_layernorm: ones(),
        linears: Linear::ALL.map(|linear| {
            let (rows, cols) = linear.shape(&config);
            let values = values(rows, cols, (100 * i + linear as usize) as u64);
            double_quantise(quantise(rows, cols, &values).expect("finite")).into()
        }),
        qk_norm: None,
        biases: Default::default(),
    };
    let layers = (0..config.num_hidden_layers).map(layer).collect();
    let table = values(config.vocab_size, hidden, 1000).into_iter();
    Weights {
        embed_tokens: dense(config.vocab_size, hidden, table),
        layers,
        norm: ones(),
        lm_head: None,
        identity: "random".into(),
        config,
    }
}

fn documents(lengths: &[usize]) -> Vec<Document> {
    let document = |(i, &length): (usize, &usize)| {
        let rng = Rng::new(&[i as u64]);
        let tokens = (0..length as u64).map(|place| rng.below(place, 49_152) as u32).collect();
        Document { tokens, loss_mask: vec![true; length] }
    };
    lengths.iter().enumerate().map(document).collect()
}

fn steps(c: &mut Criterion) {
    let cpu = Arc::new(Cpu::new(0));
    let model = Loaded::on_cpu(cpu.clone(), Arc::new(weights()));
    let lora = LoraConfig { r: 16, lora_alpha: 32.0, ..LoraConfig::default() };
    let peak = || println!("peak: {:.0} GFLOP/s", peak::bf16_flops_per_second(&cpu) / 1e9);
    peak();
    let mut group = c.benchmark_group("step");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let shapes: [(&str, &[usize]); 4] = [
        ("1x512", &[512]),
        ("4x256", &[256; 4]),
        ("2x1024", &[1024; 2]),
        ("ragged", &[20, 61, 84, 99, 118, 120, 143, 171, 208]),
    ];
    for (name, lengths) in shapes {
        let adapter = Adapter::new(lora.clone(), &model.weights.config, 1).unwrap();
        let tokens: usize = lengths.iter().sum();
        let work = bench::flops(
            &model.weights.config,
            adapter.params.len(),
            lengths.iter().copied(),
            tokens - lengths.len(),
        );
        let options = TrainerOptions {
            micro_batch_tokens: tokens,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            neftune_alpha: 0.0,
            seed: 0,
            placement: Placement::Packed,
        };
        let dataset = Dataset::of(&documents(lengths));
        let epoch = Epoch::new(&dataset, tokens, 0, 0).expect("they fit");
        let batches = epoch.batches(&dataset.documents).expect("in memory");
        let mut trainer = Trainer::<bf16>::new(&model, adapter, options).expect("it fits");
        let mut step = || trainer.step(&batches, 1e-4).expect("a step");
        // With random labels, the loss of the first step is that of chance.
        let (loss, chance) = (step().loss, (49_152f64).ln());
        assert!((loss / chance - 1.0).abs() < 0.3, "{name}: loss {loss}, chance {chance}");
        group.throughput(Throughput::Elements(work as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| b.iter(&mut step));
    }
    group.finish();
    peak();
}

criterion_group!(benches, steps);
criterion_main!(benches);
