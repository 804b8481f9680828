//! Gradients under dropout and NEFTune against PEFT with the same masks and noise: tests/golden/tiny/noise, made
//! by scripts/golden_noise.py, which has a Philox of its own.

mod common;

use std::sync::Arc;

use common::golden::{self, GRADIENT, LOSS, Tensors, apart_in_norm, assert_beyond, assert_within};
use common::runs::{Document, pack};
#[cfg(feature = "cuda")]
use common::tol::TWIN;
use dayrun::adapter::{Adapter, peft};
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::device::memory::Placement;
#[cfg(feature = "cuda")]
use dayrun::model::Dispatch;
#[cfg(feature = "cuda")]
use dayrun::model::cuda::Gpu;
use dayrun::model::engine::{Inputs, Noise};
use dayrun::model::llama::Kind;
use dayrun::model::{Engine, LoadOptions, Loaded, load};
use dayrun::philox::Moment;
use dayrun::progress::quiet;
use serde_json::Value;

const NOISE: Noise = Noise {
    moment: Moment { seed: 0x1234_5678_9abc, step: 7, micro_batch: 2 },
    neftune_alpha: 0.0,
};

fn on_cpu(name: &str) -> Loaded {
    let weights = load(&golden::path(name), &LoadOptions::default(), &quiet).unwrap();
    Loaded::on_cpu(Arc::new(Cpu::new(2)), Arc::new(weights))
}

fn documents() -> Vec<Document> {
    let json = std::fs::read(golden::path("tiny/golden.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    json["documents"].as_array().unwrap().iter().map(Document::read).collect()
}

/// Losses and gradients of all documents in one micro-batch.
fn run<E: GemmElement>(model: &Loaded, adapter: &Adapter, noise: Noise) -> (Vec<f32>, Vec<f32>) {
    let batch = pack(&documents());
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let mut engine = Engine::<E>::new(model, Some(adapter), kind, Placement::Separate).unwrap();
    let scale = 1.0 / batch.targets.len() as f32;
    engine.execute(&Inputs { noise, ..Inputs::of(&batch, scale) }, None).unwrap();
    (engine.losses().to_vec(), engine.grads().unwrap().to_vec())
}

/// Each document's summed loss.
fn by_document(losses: &[f32]) -> Vec<f64> {
    let mut losses = losses.iter().map(|&loss| f64::from(loss));
    documents().iter().map(|d| losses.by_ref().take(d.loss_tokens()).sum()).collect()
}

fn same_as_peft(kind: &str, adapter: &Adapter, noise: Noise) -> Vec<f64> {
    let wanted = Tensors::open("tiny/noise.safetensors");
    let (losses, grads) = run::<f32>(&on_cpu("tiny/bnb"), adapter, noise);
    let losses = by_document(&losses);
    for (i, got) in losses.iter().enumerate() {
        let want = f64::from(wanted.floats(&format!("{kind}.nll.{i}"))[0]);
        assert_within(&format!("{kind} loss {i}"), (got - want).abs() / want, LOSS);
    }
    let mut want = vec![f32::NAN; grads.len()];
    for module in &adapter.modules {
        for (part, range) in [("lora_A", module.a_range()), ("lora_B", module.b_range())] {
            let name = format!("{kind}.grad.{}.{part}", module.path);
            want[range.clone()].copy_from_slice(&wanted.floats(&name));
            let what = format!("{kind} {} {part}", module.path);
            assert_within(&what, apart_in_norm(&grads[range.clone()], &want[range]), GRADIENT);
        }
    }
    losses
}

fn dropping(dir: &str, model: &Loaded, p: f64) -> Adapter {
    let mut adapter = peft::load(&golden::path(dir), &model.weights.config, "tiny").unwrap();
    adapter.config.lora_dropout = p;
    adapter
}

#[test]
fn dropout_is_pefts_with_these_masks() {
    let adapter = dropping("tiny/adapter-r8", &on_cpu("tiny/bnb"), 0.25);
    let losses = same_as_peft("dropout", &adapter, NOISE);
    let wanted = Tensors::open("tiny/noise.safetensors");
    for mistake in ["one_mask_for_qkv", "rate_of_0.26"] {
        let wrong = |i: usize| wanted.floats(&format!("dropout.mistake.{mistake}.{i}"))[0];
        let apart = (losses.iter().enumerate())
            .map(|(i, got)| (got - f64::from(wrong(i))).abs() / got)
            .fold(0.0, f64::max);
        assert_beyond(mistake, apart, LOSS);
    }
}

#[test]
fn neftune_is_pefts_with_this_noise() {
    let adapter = dropping("tiny/adapter-r8", &on_cpu("tiny/bnb"), 0.0);
    same_as_peft("neftune", &adapter, Noise { neftune_alpha: 5.0, ..NOISE });
}

/// Another step, another seed, another micro-batch: other masks. The same: the same bits.
#[test]
fn masks_follow_the_place_in_the_run() {
    let model = on_cpu("tiny/bnb");
    let adapter = dropping("tiny/adapter-r8", &model, 0.25);
    let (losses, grads) = run::<f32>(&model, &adapter, NOISE);
    assert_eq!(run::<f32>(&model, &adapter, NOISE), (losses, grads.clone()));
    let moment = NOISE.moment;
    for other in [
        Moment { step: 8, ..moment },
        Moment { micro_batch: 3, ..moment },
        Moment { seed: 1, ..moment },
    ] {
        let (_, others) = run::<f32>(&model, &adapter, Noise { moment: other, ..NOISE });
        assert_beyond("another moment", apart_in_norm(&others, &grads), GRADIENT);
    }
}

/// The same masks and noise on a GPU: as near to f32 as the CPU in bf16, or all but.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_drops_the_same() {
    common::gpu::run("a_gpu_drops_the_same", |cuda, bits| {
        let on_cpu = on_cpu("wide/bnb");
        let weights = on_cpu.weights.clone();
        let adapter = dropping("wide/adapter-r8", &on_cpu, 0.25);
        let noise = Noise { neftune_alpha: 5.0, ..NOISE };
        let (_, fine) = run::<f32>(&on_cpu, &adapter, noise);
        let (_, cpu) = run::<half::bf16>(&on_cpu, &adapter, noise);
        let cpu = apart_in_norm(&cpu, &fine);
        for dispatch in [Dispatch::all_fused, Dispatch::all_scratch] {
            let gpu = Gpu::new(cuda, &weights, dispatch(&weights.config)).unwrap();
            let on_gpu = Loaded::on_gpu(on_cpu.cpu.clone(), weights.clone(), gpu);
            let (losses, gpu) = run::<half::bf16>(&on_gpu, &adapter, noise);
            let what = format!("gradient, the CPU {cpu:.1e}");
            assert_within(&what, apart_in_norm(&gpu, &fine), TWIN * cpu);
            bits.add(&losses);
            bits.add(&gpu);
            let undropped = dropping("wide/adapter-r8", &on_cpu, 0.0);
            let (_, without) = run::<half::bf16>(&on_gpu, &undropped, noise);
            assert!(apart_in_norm(&without, &fine) > TWIN * cpu, "without dropout it passes, too");
        }
    });
}
