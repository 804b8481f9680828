//! The whole model on a GPU: against the f64 model and the CPU's engine, and the same bits however its
//! buffers are placed and its blocks are scheduled.

mod families;

use std::sync::Arc;

use dayrun::adapter::Adapter;
use dayrun::device::cuda::Cuda;
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::model::cuda::{Gpu, GpuError, Needs};
use dayrun::model::engine::{Inputs, Noise};
use dayrun::model::generate::{Generator, Limits, Sampling};
use dayrun::model::kv_cache::KvCache;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Dispatch, Engine, EngineError, Loaded};
use dayrun::train::{StepReport, Trainer, TrainerOptions};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Tol, assert_close, assert_same_bits, dot, to_f64};
use crate::forward::{max_abs, tolerance};
use crate::reference::Model;
use crate::tiny::{
    adapter, adapter_of, cpu, documents, mixed, pack, uneven, weights_of, wide_config,
};

/// The adapter with its parameters as the ops see them.
fn rounded(mut adapter: Adapter) -> Adapter {
    for x in &mut adapter.params {
        *x = bf16::from_f32(*x).to_f32();
    }
    adapter
}

fn on_gpu(cuda: &Arc<Cuda>, weights: &Arc<Weights>, dispatch: Dispatch) -> Loaded {
    let gpu = Gpu::new(cuda, weights, dispatch).unwrap();
    Loaded::on_gpu(cpu(), weights.clone(), gpu)
}

/// Losses and gradients of the mean loss of one batch.
fn train(
    model: &Loaded,
    adapter: &Adapter,
    batch: &MicroBatch,
    placement: Placement,
) -> (Vec<f32>, Vec<f32>) {
    // Room for more than there is: grids and lengths are those of the batch.
    let kind = Kind::Train { tokens: batch.tokens.len() + 13 };
    let mut engine = Engine::<bf16>::new(model, Some(adapter), kind, placement).unwrap();
    engine.zero_grads().unwrap();
    engine.run(batch, 1.0 / batch.targets.len() as f32).unwrap();
    (engine.losses().to_vec(), engine.grads().unwrap().to_vec())
}

/// The distance of two gradients of each tensor, in norms of the second.
fn near(name: &str, adapter: &Adapter, got: &[f32], want: &[f32]) {
    for range in adapter.modules.iter().flat_map(|m| [m.a_range(), m.b_range()]) {
        let (got, want) = (to_f64(&got[range.clone()]), to_f64(&want[range.clone()]));
        let norm = dot(&want, &want).sqrt();
        let off: Vec<f64> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        // As `gradients::in_bf16_are_near_those_in_f32`; the GPU's attention rounds P and dS, too.
        let rounds = (2.0f64 * (144.0 + 16.0)).sqrt() as usize;
        let tol = Tol::new(DType::Bf16).rounds(rounds).magnitude(norm);
        let tensor = adapter.tensor_at(range.start);
        assert_close(&format!("{name}: {tensor}"), &[dot(&off, &off).sqrt()], &[0.0], tol);
    }
}

/// The largest logit of documents in the f64 model: what bounds of losses are measured by.
fn largest_logit(weights: &Arc<Weights>, adapter: &Adapter, docs: &[Vec<u32>]) -> f64 {
    let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
    let reference = Model::new::<bf16>(weights);
    let of = |doc: &Vec<u32>| max_abs(&reference.forward(doc, Some((adapter, &params))).logits);
    docs.iter().map(of).fold(0.0, f64::max)
}

/// Losses against the f64 model, gradients against the CPU's in f32, both placements the same bits.
fn step(
    r: usize,
    weights: Arc<Weights>,
    targets: &[Linear],
    way: fn(&dayrun::model::config::LlamaConfig) -> Dispatch,
) -> impl Fn(&Arc<Cuda>, &mut Bits) {
    move |cuda, bits| {
        let adapter = rounded(adapter(&weights.config, r, targets, 3));
        step_of(&weights, &adapter, way(&weights.config), cuda, bits);
    }
}

/// As [`step`], for any adapter.
fn step_of(
    weights: &Arc<Weights>,
    adapter: &Adapter,
    dispatch: Dispatch,
    cuda: &Arc<Cuda>,
    bits: &mut Bits,
) {
    let docs = documents(&[21, 1, 2, 34, 9], 1);
    let batch = pack(&docs);
    let model = on_gpu(cuda, weights, dispatch);
    let (losses, grads) = train(&model, adapter, &batch, Placement::Separate);

    let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
    let reference = Model::new::<bf16>(weights);
    let want = reference.losses(&batch, Some((adapter, &params)));
    let magnitude = max_abs(&reference.forward(&docs[3], Some((adapter, &params))).logits);
    assert_close("losses", &losses, &want, tolerance::<bf16>(magnitude));
    let on_cpu = Loaded::on_cpu(cpu(), weights.clone());
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let mut fine = Engine::<f32>::new(&on_cpu, Some(adapter), kind, Placement::Separate).unwrap();
    fine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
    near("gradients", adapter, &grads, fine.grads().unwrap());

    let packed = train(&model, adapter, &batch, Placement::Packed);
    assert_same_bits("losses in one arena", &packed.0, &losses);
    assert_same_bits("gradients in one arena", &packed.1, &grads);
    bits.add(&losses);
    bits.add(&grads);
}

#[test]
fn a_step_fused_at_rank_8() {
    let weights = weights_of(wide_config(true));
    gpu::run("cuda::a_step_fused_at_rank_8", step(8, weights, &Linear::ALL, Dispatch::all_fused));
}

#[test]
fn a_step_by_scratch_at_rank_5() {
    gpu::run(
        "cuda::a_step_by_scratch_at_rank_5",
        step(5, weights_of(wide_config(false)), &Linear::ALL, Dispatch::all_scratch),
    );
}

/// NF4 beside bf16 and f32 in a layer, bf16 alone in the next; what is in NF4 by itself goes fused.
#[test]
fn a_step_with_weights_held_in_different_ways() {
    gpu::run(
        "cuda::a_step_with_weights_held_in_different_ways",
        step(8, mixed(&weights_of(wide_config(true))), &Linear::ALL, Dispatch::all_fused),
    );
}

#[test]
fn a_step_by_scratch_with_weights_held_in_different_ways() {
    gpu::run(
        "cuda::a_step_by_scratch_with_weights_held_in_different_ways",
        step(
            5,
            mixed(&weights_of(wide_config(false))),
            &[Linear::Q, Linear::Down],
            Dispatch::all_scratch,
        ),
    );
}

#[test]
fn a_step_with_ranks_and_scales_of_their_own() {
    gpu::run("cuda::a_step_with_ranks_and_scales_of_their_own", |cuda, bits| {
        let weights = weights_of(wide_config(true));
        let adapter = rounded(adapter_of(uneven(4), &weights.config, 4));
        for way in [Dispatch::all_fused, Dispatch::all_scratch] {
            step_of(&weights, &adapter, way(&weights.config), cuda, bits);
        }
    });
}

/// More loss positions than one chunk of logits has rows.
#[test]
fn a_step_with_two_chunks_of_logits() {
    gpu::run("cuda::a_step_with_two_chunks_of_logits", |cuda, bits| {
        let weights = weights_of(wide_config(true));
        let adapter = rounded(adapter(&weights.config, 8, &[Linear::Down], 3));
        let docs = documents(&[150, 150], 1);
        let mut batch = pack(&docs);
        // Every position has a loss, but the last of each document.
        let has_next = |i: &u32| ![149, 299].contains(i);
        batch.loss_positions = (0..300).filter(has_next).collect();
        batch.targets =
            batch.loss_positions.iter().map(|&i| batch.tokens[i as usize + 1]).collect();
        let model = on_gpu(cuda, &weights, Dispatch::all_scratch(&weights.config));
        let (losses, grads) = train(&model, &adapter, &batch, Placement::Packed);
        let on_cpu = Loaded::on_cpu(cpu(), weights.clone());
        let kind = Kind::Train { tokens: 300 };
        let mut fine =
            Engine::<f32>::new(&on_cpu, Some(&adapter), kind, Placement::Separate).unwrap();
        fine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
        let tol = tolerance::<bf16>(largest_logit(&weights, &adapter, &docs));
        assert_close("losses", &losses, &to_f64(fine.losses()), tol);
        near("gradients", &adapter, &grads, fine.grads().unwrap());
        bits.add(&losses);
        bits.add(&grads);
    });
}

/// The logits of a prompt read in two pieces, beside a row that is idle at first.
#[test]
fn generates_logits_from_a_cache() {
    gpu::run("cuda::generates_logits_from_a_cache", |cuda, bits| {
        let weights = weights_of(wide_config(false));
        let adapter = rounded(adapter(&weights.config, 8, &Linear::ALL, 3));
        let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
        let docs = documents(&[9, 5], 2);
        for way in [Dispatch::all_fused, Dispatch::all_scratch] {
            let model = on_gpu(cuda, &weights, way(&weights.config));
            let kind = Kind::Generate { tokens: 12, rows: 9 };
            let mut engine =
                Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Separate).unwrap();
            let mut cache = KvCache::<bf16>::new(&model, 2, 10).unwrap();
            let mut run = |rows: [(usize, usize); 2]| {
                let mut tokens = Vec::new();
                let (mut position_ids, mut cu_seqlens) = (Vec::new(), vec![0]);
                for (doc, (start, end)) in docs.iter().zip(rows) {
                    tokens.extend(&doc[start..end]);
                    position_ids.extend(start as u32..end as u32);
                    cu_seqlens.push(tokens.len() as u32);
                }
                let positions: Vec<u32> = (0..tokens.len() as u32).collect();
                let inputs = Inputs {
                    tokens: &tokens,
                    position_ids: &position_ids,
                    cu_seqlens: &cu_seqlens,
                    positions: &positions,
                    targets: &[],
                    loss_scale: 0.0,
                    noise: Noise::default(),
                };
                engine.execute(&inputs, Some(&mut cache)).unwrap();
                cache.advance(&cu_seqlens);
                engine.logits().to_vec()
            };
            let (first, second) = (run([(0, 6), (0, 0)]), run([(6, 9), (0, 5)]));
            let vocab = weights.config.vocab_size;
            let reference = Model::new::<bf16>(&weights);
            let want = docs.iter().map(|doc| reference.forward(doc, Some((&adapter, &params))));
            let want: Vec<Vec<f64>> = want.map(|out| out.logits).collect();
            let tol = tolerance::<bf16>(max_abs(&want.concat())).cols(vocab);
            assert_close("first piece", &first, &want[0][..6 * vocab], tol);
            assert_close("second piece", &second[..3 * vocab], &want[0][6 * vocab..], tol);
            assert_close("second row", &second[3 * vocab..], &want[1], tol);
            bits.add(&first);
            bits.add(&second);
        }
    });
}

/// Answers that share a beginning are those of the CPU.
#[test]
fn a_generator_answers_as_on_the_cpu() {
    gpu::run("cuda::a_generator_answers_as_on_the_cpu", |cuda, bits| {
        let weights = weights_of(wide_config(true));
        let adapter = rounded(adapter(&weights.config, 8, &Linear::ALL, 3));
        let beginning = documents(&[4], 7).remove(0);
        let ends = documents(&[2, 1, 3], 8);
        let prompts: Vec<Vec<u32>> =
            ends.iter().map(|end| [&beginning[..], end].concat()).collect();
        let limits = Limits { max_new_tokens: 2, stop_ids: &[], stop: None };
        let models = [
            on_gpu(cuda, &weights, Dispatch::all_fused(&weights.config)),
            Loaded::on_cpu(cpu(), weights.clone()),
        ];
        let [got, want] = models.map(|model| {
            let mut generator = Generator::<bf16>::new(&model, Some(&adapter), 2, 12).unwrap();
            generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap()
        });
        assert_eq!(got, want);
        bits.add(&got.concat());
    });
}

const OPTIONS: TrainerOptions = TrainerOptions {
    micro_batch_tokens: 40,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    max_grad_norm: 1.0,
    neftune_alpha: 0.0,
    seed: 0,
    placement: Placement::Packed,
};

/// Three steps of two micro-batches: the CPU's losses and gradient norms, within bf16's bounds.
#[test]
fn trains_as_the_cpu_does() {
    gpu::run("cuda::trains_as_the_cpu_does", |cuda, bits| {
        let weights = weights_of(wide_config(true));
        let start = rounded(adapter(&weights.config, 5, &[Linear::Q, Linear::V, Linear::Down], 3));
        let docs = [documents(&[14, 20], 1), documents(&[9], 2)];
        let batches = [pack(&docs[0]), pack(&docs[1])];
        let train = |model: &Loaded| {
            let mut trainer = Trainer::<bf16>::new(model, start.clone(), OPTIONS).unwrap();
            let reports: Vec<StepReport> =
                (0..3).map(|_| trainer.step(&batches, 1e-3).unwrap()).collect();
            (reports, trainer.adapter().unwrap().clone())
        };
        let (want, trained) = train(&Loaded::on_cpu(cpu(), weights.clone()));
        let (got, moved) = train(&on_gpu(cuda, &weights, Dispatch::all_fused(&weights.config)));
        let losses = |reports: &[StepReport]| reports.iter().map(|r| r.loss).collect::<Vec<_>>();
        let norms =
            |reports: &[StepReport]| reports.iter().map(|r| r.grad_norm).collect::<Vec<_>>();
        // Twice what one of them may be off by.
        let largest = [&start, &trained].map(|x| largest_logit(&weights, x, &docs.concat()));
        let tol = tolerance::<bf16>(2.0 * largest[0].max(largest[1]));
        assert_close("losses", &losses(&got), &losses(&want), tol);
        let tol = Tol::new(DType::Bf16).rounds(2 * (2.0f64 * 160.0).sqrt() as usize);
        assert_close("gradient norms", &norms(&got), &norms(&want), tol);
        assert!(got[2].loss < got[0].loss, "{got:?}");
        assert_ne!(moved.params, start.params);
        bits.add(&losses(&got));
        bits.add(&moved.params);
    });
}

/// The CPU up to some op and the GPU from there: the same result, wherever the border is.
#[test]
fn a_step_is_the_same_from_any_op_on() {
    gpu::run("cuda::a_step_is_the_same_from_any_op_on", |cuda, bits| {
        let weights = weights_of(wide_config(true));
        let adapter = rounded(adapter(&weights.config, 8, &Linear::ALL, 3));
        let docs = documents(&[11, 6], 1);
        let batch = pack(&docs);
        let on_cpu = Loaded::on_cpu(cpu(), weights.clone());
        let (losses, cpu_grads) = train(&on_cpu, &adapter, &batch, Placement::Separate);
        let kind = Kind::Train { tokens: batch.tokens.len() };
        let mut fine =
            Engine::<f32>::new(&on_cpu, Some(&adapter), kind, Placement::Separate).unwrap();
        fine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
        let mut model = on_gpu(cuda, &weights, Dispatch::all_scratch(&weights.config));
        let (_, gpu_grads) = train(&model, &adapter, &batch, Placement::Packed);
        let tol = tolerance::<bf16>(2.0 * largest_logit(&weights, &adapter, &docs));
        for name in ["layers.1.attention", "layers.1.qkv.lora_grad_a", "layers.0.rope.backward"] {
            model.gpu.as_mut().unwrap().cpu_until = Some(name.into());
            let (got, grads) = train(&model, &adapter, &batch, Placement::Packed);
            assert_close(name, &got, &to_f64(&losses), tol);
            near(name, &adapter, &grads, fine.grads().unwrap());
            // Both devices had their part in it.
            assert!(grads != gpu_grads, "{name}: all of it ran on the GPU");
            assert!(grads != cpu_grads, "{name}: all of it ran on the CPU");
            bits.add(&grads);
        }
        model.gpu.as_mut().unwrap().cpu_until = Some("layers.1.atention".into());
        let error = Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Packed).err();
        let error = error.unwrap().to_string();
        assert!(error.contains("layers.1.attention,"), "{error}");
    });
}

#[test]
fn what_does_not_fit_is_told_with_what_would() {
    gpu::run("cuda::what_does_not_fit_is_told_with_what_would", |_, _| {
        let weights = mixed(&weights_of(wide_config(false)));
        let adapter = adapter(&weights.config, 8, &Linear::ALL, 3);
        let cuda = Cuda::open(0, Some(3_000_000)).unwrap();
        let dispatch = Dispatch::all_scratch(&weights.config);
        let check = |tokens: usize| {
            let kind = Kind::Train { tokens };
            Needs::check(&cuda, &weights, &dispatch, Some(&adapter), kind, 0)
        };
        let error = check(4096).unwrap_err();
        let EngineError::Gpu(GpuError::TooLittleMemory(shortage)) = &error else {
            panic!("{error}");
        };
        let fits = shortage.fits.unwrap();
        assert!(error.to_string().contains("activations and scratch"), "{error}");
        let both = format!("train.micro_batch_tokens = {fits}, and data.max_length at most that");
        assert_eq!(error.hint().unwrap(), both);
        for (rows, kv_tokens) in [(100_000, 0), (1, 1 << 30)] {
            let kind = Kind::Generate { tokens: rows + 256, rows };
            let error = Needs::check(&cuda, &weights, &dispatch, None, kind, kv_tokens);
            let hint = error.unwrap_err().hint().unwrap();
            assert!(hint.starts_with("lower eval.batch_rows or eval.max_new_tokens "), "{hint}");
        }
        check(fits).unwrap();
        check(fits + 1).unwrap_err();
        // What the table counts is what is allocated.
        let model = on_gpu(&cuda, &weights, dispatch.clone());
        let kind = Kind::Train { tokens: fits };
        let engine = Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Packed).unwrap();
        assert!(cuda.used() <= 3_000_000, "{}", cuda.used());
        let kind = Kind::Train { tokens: fits + 1 };
        drop(engine);
        assert!(Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Packed).is_err());
    });
}

/// The error of a fault names the op at which the device stopped, and the device is spoilt.
#[test]
#[cfg(not(feature = "gpu-tests"))]
fn a_fault_names_its_op() {
    // The fourth kernel: norm, stacked A's, then the first linear.
    let options = virtual_gpu::Options { fault_at: Some(4), ..virtual_gpu::Options::default() };
    virtual_gpu::run("cuda::a_fault_names_its_op", &options, || {
        let weights = weights_of(wide_config(true));
        let adapter = adapter(&weights.config, 8, &Linear::ALL, 3);
        let cuda = Cuda::open(0, None).unwrap();
        let model = on_gpu(&cuda, &weights, Dispatch::all_fused(&weights.config));
        let batch = pack(&documents(&[4, 4], 1));
        let kind = Kind::Train { tokens: 8 };
        let mut engine =
            Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Packed).unwrap();
        assert_eq!(
            engine.op_names()[..5].join(" "),
            "embedding neftune layers.0.input_layernorm layers.0.qkv.lora_down layers.0.q_proj"
        );
        let error = engine.run(&batch, 1.0).unwrap_err().to_string();
        assert!(error.starts_with("the GPU stopped at layers.0.q_proj: "), "{error}");
        assert!(engine.run(&batch, 1.0).is_err() && engine.grads().is_err());
    });
}

/// Every op has a name of its own, in every program.
#[test]
fn ops_have_names_of_their_own() {
    let weights = weights_of(wide_config(true));
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 3);
    let model = Loaded::on_cpu(cpu(), weights);
    for kind in
        [Kind::Train { tokens: 8 }, Kind::Eval { tokens: 8 }, Kind::Generate { tokens: 8, rows: 2 }]
    {
        let engine = Engine::<bf16>::new(&model, Some(&adapter), kind, Placement::Packed).unwrap();
        let mut names = engine.op_names().to_vec();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), engine.op_names().len());
    }
}

#[test]
fn what_is_not_in_a_model_is_an_error_before_any_launch() {
    gpu::run("cuda::what_is_not_in_a_model_is_an_error_before_any_launch", |cuda, _| {
        let weights = weights_of(wide_config(true));
        let good = pack(&documents(&[4, 4], 1));
        let model = on_gpu(cuda, &weights, Dispatch::all_fused(&weights.config));
        let kind = Kind::Eval { tokens: 8 };
        assert!(Engine::<f32>::new(&model, None, kind, Placement::Separate).is_err());
        let mut engine = Engine::<bf16>::new(&model, None, kind, Placement::Separate).unwrap();
        engine.run(&good, 1.0).unwrap();
        let losses = engine.losses().to_vec();
        type Spoil = fn(&mut MicroBatch);
        let spoil: [(&str, Spoil); 9] = [
            ("nine tokens", |b| b.tokens.push(0)),
            ("a token outside the vocabulary", |b| b.tokens[3] = 259),
            ("a position past the tables", |b| b.position_ids[3] = 600),
            ("a missing position", |b| b.position_ids.truncate(7)),
            ("a document past the end", |b| b.cu_seqlens[2] = 9),
            ("documents out of order", |b| b.cu_seqlens[1] = 9),
            ("a loss position past the end", |b| b.loss_positions[0] = 8),
            ("a target outside the vocabulary", |b| b.targets[0] = 259),
            ("a missing target", |b| b.targets.truncate(2)),
        ];
        for (name, spoil) in spoil {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(engine.run(&bad, 1.0).is_err(), "{name} was accepted");
        }
        engine.run(&good, 1.0).unwrap();
        assert_same_bits("losses after errors", engine.losses(), &losses);
        engine.run(&MicroBatch { cu_seqlens: vec![0], ..MicroBatch::default() }, 1.0).unwrap();
        assert_eq!(engine.losses().len(), 0);
        let narrow = weights_of(crate::tiny::config(64, true));
        let dispatch = Dispatch::all_fused(&narrow.config);
        let error = Gpu::new(cuda, &narrow, dispatch).err().unwrap().to_string();
        assert_eq!(error, "head_dim is 16: the GPU's attention kernels take 64 and 128");
    });
}
