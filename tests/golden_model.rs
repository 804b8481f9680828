//! Logits, gradients and losses against transformers, PEFT and bitsandbytes, in f32:
//! tests/golden/tiny, tied and wide, made by scripts/golden_tiny.py.

mod common;

use std::sync::Arc;

use common::assert_same_bits;
use common::golden::{self, GRADIENT, LOGITS, LOSS, Tensors, apart, apart_in_norm};
use common::golden::{assert_beyond, assert_within};
use common::runs::{Document, ids, logits_on, pack, wanted_gradient};
use common::tol::{TWIN, logits_in_bf16};
use dayrun::adapter::peft::{self, BaseModel};
use dayrun::adapter::{Adapter, LoraConfig};
use dayrun::config::ScheduleKind;
use dayrun::device::bytes::Bytes;
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::device::memory::Placement;
#[cfg(feature = "cuda")]
use dayrun::model::Dispatch;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::{Linear, LlamaConfig};
#[cfg(feature = "cuda")]
use dayrun::model::cuda::Gpu;
use dayrun::model::llama::Kind;
#[cfg(all(feature = "gguf", feature = "cli"))]
use dayrun::model::source::{DEMO, Sources};
use dayrun::model::tokenizer::TextTokenizer;
use dayrun::model::weights::{Dense, LayerWeights, Matrix, Weights};
use dayrun::model::{Engine, LoadOptions, Loaded, load};
use dayrun::progress::quiet;
use dayrun::quant::Nf4Matrix;
use dayrun::train::{Schedule, Trainer, TrainerOptions};
use half::bf16;
use serde_json::Value;

fn weights(name: &str) -> Arc<Weights> {
    Arc::new(load(&golden::path(name), &LoadOptions::default(), &quiet).unwrap())
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden::path(name)).unwrap()).unwrap()
}

fn prompts(name: &str) -> Vec<Vec<u32>> {
    json(name)["prompts"].as_array().unwrap().iter().map(ids).collect()
}

fn documents() -> Vec<Document> {
    let golden = json("tiny/golden.json");
    golden["documents"].as_array().unwrap().iter().map(Document::read).collect()
}

/// Logits at every position of one prompt.
fn logits(weights: &Arc<Weights>, adapter: Option<&Adapter>, prompt: &[u32]) -> Vec<f32> {
    logits_on::<f32>(&Loaded::on_cpu(Arc::new(Cpu::new(1)), weights.clone()), adapter, prompt)
}

fn adapter(weights: &Weights, name: &str) -> Adapter {
    adapter_of("tiny", weights, name)
}

fn adapter_of(model: &str, weights: &Weights, name: &str) -> Adapter {
    peft::load(&golden::path(model).join(name), &weights.config, model).unwrap()
}

#[test]
fn logits_without_an_adapter() {
    for name in ["tiny", "tied", "wide"] {
        let weights = weights(&format!("{name}/bnb"));
        let want = Tensors::open(&format!("{name}/forward.safetensors"));
        let prompts = prompts(&format!("{name}/golden.json"));
        assert_eq!(prompts.len(), 4);
        for (i, prompt) in prompts.iter().enumerate() {
            let got = logits(&weights, None, prompt);
            let want = want.floats(&format!("logits.{i}"));
            assert!(golden::std(&want) > 1.0, "{name}: logits too flat to tell");
            assert_within(&format!("{name} logits {i}"), apart(&got, &want), LOGITS);
        }
    }
}

/// Directories of bitsandbytes: plain scales and nested ones, bytes labelled as other types, modules left in
/// 16 bits. In f32 against transformers; in bf16 the same bits as from weights that bitsandbytes decoded.
#[test]
fn logits_of_bitsandbytes_directories() {
    for name in ["nested", "plain", "wide", "dynamic"] {
        let golden = Tensors::open(&format!("bnb/{name}.safetensors"));
        let (weights, prompt) = (weights(&format!("bnb/{name}")), golden.ids("ids"));
        let got = logits(&weights, None, &prompt);
        assert_within(name, apart(&got, &golden.floats("logits")), LOGITS);

        let in_bf16 = |weights: &Arc<Weights>| {
            logits_on::<bf16>(
                &Loaded::on_cpu(Arc::new(Cpu::new(1)), weights.clone()),
                None,
                &prompt,
            )
        };
        let decoded = Arc::new(decoded_by_bitsandbytes(&weights, &golden));
        let (got, want) = (in_bf16(&weights), in_bf16(&decoded));
        assert_same_bits(name, &got, &want);
    }
}

/// The model with each 4-bit weight replaced by what bitsandbytes decodes from its bytes.
fn decoded_by_bitsandbytes(weights: &Weights, golden: &Tensors) -> Weights {
    let mut weights = weights.clone();
    for linear in Linear::ALL {
        let Some((_, shape, data)) = golden.find(&format!("{}.weight", linear.path(0))) else {
            continue;
        };
        let dense = Dense::new(shape[0], shape[1], Bytes::from(data));
        weights.layers[0].linears[linear as usize] = Matrix::Bf16(dense);
    }
    weights
}

#[test]
fn logits_with_an_adapter() {
    for model in ["tiny", "wide"] {
        let weights = weights(&format!("{model}/bnb"));
        let prompts = prompts(&format!("{model}/golden.json"));
        for name in ["adapter-r8", "adapter-r5-rslora"] {
            let adapter = adapter_of(model, &weights, name);
            let want = Tensors::open(&format!("{model}/{name}.safetensors"));
            for (i, prompt) in prompts.iter().enumerate() {
                let got = logits(&weights, Some(&adapter), prompt);
                let want = want.floats(&format!("logits.{i}"));
                let what = format!("{model} {name} logits {i}");
                assert_within(&what, apart(&got, &want), LOGITS);
            }
        }
    }
}

/// PEFT's logits in bf16, on the CPU and on a GPU, both ways through a 4-bit linear: within bf16's roundings
/// of those that PEFT computes in f32, and nearer than the model without the adapter is.
fn logits_of_peft_in_bf16(model: &Loaded, what: &str) {
    for name in ["adapter-r8", "adapter-r5-rslora"] {
        let adapter = adapter_of("wide", &model.weights, name);
        let want = Tensors::open(&format!("wide/{name}.safetensors"));
        for (i, prompt) in prompts("wide/golden.json").iter().enumerate() {
            let want = want.floats(&format!("logits.{i}"));
            let largest = want.iter().fold(0.0, |a: f64, &x| a.max(f64::from(x.abs())));
            let bound = logits_in_bf16(2, largest) / golden::std(&want);
            let got = logits_on::<bf16>(model, Some(&adapter), prompt);
            let what = format!("{what}: {name} logits {i}");
            assert_within(&what, apart(&got, &want), bound);
            let without = logits_on::<bf16>(model, None, prompt);
            let moved = apart(&without, &want);
            assert!(
                moved > bound,
                "{what}: without the adapter it passes, too: {moved} of {bound}"
            );
        }
    }
}

#[test]
fn logits_with_an_adapter_in_bf16() {
    let model = Loaded::on_cpu(Arc::new(Cpu::new(2)), weights("wide/bnb"));
    logits_of_peft_in_bf16(&model, "CPU");
}

#[cfg(feature = "cuda")]
#[test]
fn logits_with_an_adapter_on_a_gpu() {
    common::gpu::run("logits_with_an_adapter_on_a_gpu", |cuda, bits| {
        let weights = weights("wide/bnb");
        for dispatch in [Dispatch::all_fused, Dispatch::all_scratch] {
            let table = dispatch(&weights.config);
            let way = table.source.clone();
            let gpu = Gpu::new(cuda, &weights, table).unwrap();
            let model = Loaded::on_gpu(Arc::new(Cpu::new(2)), weights.clone(), gpu);
            logits_of_peft_in_bf16(&model, &way);
            let adapter = adapter_of("wide", &weights, "adapter-r8");
            bits.add(&logits_on::<bf16>(&model, Some(&adapter), &prompts("wide/golden.json")[2]));
        }
    });
}

/// Interleaved rope, permuted q and k, either scaling left out, the mask one off either way.
#[test]
fn planted_mistakes_are_far_away() {
    let weights = weights("tiny/bnb");
    let adapter = adapter(&weights, "adapter-r8");
    let got = logits(&weights, Some(&adapter), &prompts("tiny/golden.json")[3]);
    let mistakes = Tensors::open("tiny/mistakes.safetensors");
    let names = mistakes.names();
    assert_eq!(names.len(), 6, "{names:?}");
    for name in names {
        assert_beyond(&name, apart(&got, &mistakes.floats(&name)), LOGITS);
    }
}

/// The gradient of the mean loss over all loss tokens, packed, and each document's own loss.
#[test]
fn losses_and_gradients_of_packed_documents() {
    let weights = weights("tiny/bnb");
    let documents = documents();
    let batch = pack(&documents);
    for name in ["adapter-r8", "adapter-r5-rslora"] {
        let adapter = adapter(&weights, name);
        let want = Tensors::open(&format!("tiny/{name}.safetensors"));
        let kind = Kind::Train { tokens: batch.tokens.len() };
        let model = Loaded::on_cpu(Arc::new(Cpu::new(2)), weights.clone());
        let mut engine =
            Engine::<f32>::new(&model, Some(&adapter), kind, Placement::Separate).unwrap();
        engine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();

        let mut losses = engine.losses().iter().map(|&l| f64::from(l));
        for (i, document) in documents.iter().enumerate() {
            let n = (1..document.ids.len()).filter(|&t| document.mask[t]).count();
            let got: f64 = losses.by_ref().take(n).sum();
            let want = f64::from(want.floats(&format!("nll.{i}"))[0]);
            assert_within(&format!("{name} loss {i}"), (got - want).abs() / want, LOSS);
        }
        assert_eq!(losses.next(), None);

        let wanted = wanted_gradient(&adapter, &want);
        let got = engine.grads().unwrap().to_vec();
        assert_within(&format!("{name} gradient"), apart_in_norm(&got, &wanted), GRADIENT);
        // Small tensors too: none may hide behind the others' norm.
        for module in &adapter.modules {
            for range in [module.a_range(), module.b_range()] {
                let apart = apart_in_norm(&got[range.clone()], &wanted[range]);
                assert_within(&format!("{name} {}", module.path), apart, GRADIENT);
            }
        }

        // The loss mask one token late, the divisor of documents and not of tokens.
        let late: Vec<Document> = documents
            .iter()
            .map(|d| {
                let mut mask = d.mask.clone();
                mask.rotate_right(1);
                Document { ids: d.ids.clone(), mask }
            })
            .collect();
        let late = pack(&late);
        engine.zero_grads().unwrap();
        engine.run(&late, 1.0 / late.targets.len() as f32).unwrap();
        assert_beyond("late mask", apart_in_norm(engine.grads().unwrap(), &wanted), GRADIENT);
        let scaled: Vec<f32> = got.iter().map(|g| g * 0.98).collect();
        assert_beyond("scaled", apart_in_norm(&scaled, &wanted), GRADIENT);
        let mut nan = got;
        nan[0] = f32::NAN;
        assert!(apart_in_norm(&nan, &wanted).is_nan());
    }
}

/// The first twenty losses of AdamW with clipping, decay, warm-up and cosine over two accumulated
/// micro-batches, the gradient norms, and the adapter that remains.
#[test]
fn twenty_losses() {
    let weights = weights("tiny/bnb");
    let golden = json("tiny/golden.json");
    let run = &golden["run"];
    let number = |value: &Value| value.as_f64().unwrap();
    let documents = documents();
    let batches: Vec<MicroBatch> = run["micro_batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| pack(ids(batch).iter().map(|&i| &documents[i as usize])))
        .collect();
    let options = TrainerOptions {
        micro_batch_tokens: batches.iter().map(|b| b.tokens.len()).max().unwrap(),
        beta1: number(&run["betas"][0]),
        beta2: number(&run["betas"][1]),
        eps: number(&run["eps"]),
        weight_decay: number(&run["weight_decay"]),
        max_grad_norm: number(&run["max_grad_norm"]),
        neftune_alpha: 0.0,
        seed: 0,
        placement: Placement::Packed,
    };
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: number(&run["lr"]),
        warmup: run["warmup_steps"].as_u64().unwrap(),
        total: run["steps"].as_u64().unwrap(),
    };
    let start = adapter(&weights, "adapter-r8");
    let cpu = Arc::new(Cpu::new(2));
    let mut trainer =
        Trainer::<f32>::new(&Loaded::on_cpu(cpu, weights.clone()), start, options).unwrap();
    let mut losses = Vec::new();
    let steps = golden["training"].as_array().unwrap();
    assert_eq!(steps.len(), 20);
    for (k, want) in steps.iter().enumerate() {
        let lr = schedule.lr(k as u64);
        let apart = (lr - number(&want["lr"])).abs() / schedule.peak;
        // A handful of f64 operations of values up to the peak.
        assert_within(&format!("step {k} lr"), apart, 8.0 * f64::EPSILON);
        let report = trainer.step(&batches, lr).unwrap();
        for (what, got) in [("loss", report.loss), ("grad_norm", report.grad_norm)] {
            let want = number(&want[what]);
            let bound = if what == "loss" { LOSS } else { GRADIENT };
            assert_within(&format!("step {k} {what} {want:.4}"), (got - want).abs() / want, bound);
        }
        losses.push(report.loss);
    }
    let after = adapter(&weights, "adapter-r8-trained");
    let distance = apart_in_norm(&trainer.adapter().unwrap().params, &after.params);
    assert_within("trained adapter", distance, GRADIENT);
    // For scripts/check_peft.py, by hand: PEFT's own view of what was trained here.
    if let Some(dir) = std::env::var_os("DAYRUN_KEEP_ADAPTER") {
        let base = BaseModel { name: "tiny".into(), ..BaseModel::default() };
        peft::save(trainer.adapter().unwrap(), dir.as_ref(), &base).unwrap();
    }

    let mistakes = golden["mistaken_losses"].as_object().unwrap();
    assert_eq!(mistakes.len(), 4);
    for (name, wrong) in mistakes {
        let apart = wrong.as_array().unwrap().iter().zip(&losses);
        let apart = apart.map(|(w, l)| (l - number(w)).abs() / number(w)).fold(0.0, f64::max);
        assert_beyond(name, apart, LOSS);
    }
}

fn nf4(layer: &LayerWeights, linear: Linear) -> &Nf4Matrix {
    layer.linear(linear).as_nf4().unwrap()
}

/// A matrix's bits: packed codes and every scale.
fn same_matrix(what: &str, a: &Nf4Matrix, b: &Nf4Matrix) {
    assert_eq!((a.rows, a.cols), (b.rows, b.cols), "{what}");
    assert_same_bits(what, &a.codes, &b.codes);
    let scales = |m: &Nf4Matrix| (0..m.blocks()).map(|i| m.absmax.get(i)).collect::<Vec<f32>>();
    assert_same_bits(what, &scales(a), &scales(b));
}

/// The same bf16 weights from a Hub directory and from a GGUF that the `gguf` package wrote with
/// llama.cpp's order of q and k rows: the same bits, the same configuration, the same token ids.
#[cfg(feature = "gguf")]
#[test]
fn hub_directory_and_gguf_are_one_model() {
    let (hub, gguf) = (weights("tiny/hub"), weights("tiny/tiny.gguf"));
    assert_eq!(
        LlamaConfig { rms_norm_eps: 0.0, ..hub.config.clone() },
        LlamaConfig { rms_norm_eps: 0.0, ..gguf.config.clone() }
    );
    // GGUF keeps it in f32.
    assert_eq!(hub.config.rms_norm_eps as f32, gguf.config.rms_norm_eps as f32);
    let dense = |w: &Weights| {
        let mut all = vec![w.embed_tokens.data.to_vec(), w.head().data.to_vec()];
        all.push(w.norm.data.to_vec());
        for layer in &w.layers {
            all.push(layer.input_layernorm.data.to_vec());
            all.push(layer.post_attention_layernorm.data.to_vec());
        }
        all
    };
    assert!(dense(&hub) == dense(&gguf));
    assert_eq!((hub.layers.len(), gguf.layers.len()), (2, 2));
    for (i, (a, b)) in hub.layers.iter().zip(&gguf.layers).enumerate() {
        for linear in Linear::ALL {
            same_matrix(&linear.path(i), nf4(a, linear), nf4(b, linear));
        }
    }
    let prompt = &prompts("tiny/golden.json")[3];
    assert_same_bits("logits", &logits(&hub, None, prompt), &logits(&gguf, None, prompt));

    let text =
        "<|im_start|>user\nWhat is the other thing at 12345?\n<|im_end|> naïve \u{1f600}\t{}";
    let ids =
        |name: &str| TextTokenizer::load(&golden::path(name)).unwrap().encode_plain(text).unwrap();
    let from_hub = ids("tiny/hub");
    assert_eq!(from_hub, ids("tiny/tiny.gguf"));
    assert_eq!(from_hub[0], 1);
}

/// An adapter that PEFT wrote, loaded and written again: the same parameters, tensors of the same
/// names, shapes and bytes.
#[test]
fn adapters_of_peft_go_round() {
    let weights = weights("tiny/bnb");
    let dir = tempfile::tempdir().unwrap();
    for name in ["adapter-r8", "adapter-r5-rslora", "adapter-r8-trained"] {
        let first = adapter(&weights, name);
        let out = dir.path().join(name);
        peft::save(&first, &out, &BaseModel::default()).unwrap();
        assert_eq!(peft::load(&out, &weights.config, "tiny").unwrap(), first);
        let read = |dir: &std::path::Path| {
            let bytes = std::fs::read(dir.join("adapter_model.safetensors")).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let mut all: Vec<_> = file
                .tensors()
                .into_iter()
                .map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec()))
                .collect();
            all.sort();
            all
        };
        assert!(read(&out) == read(&golden::path("tiny").join(name)), "{name}");
    }
}

/// SmolLM2 itself on a GPU: the logits of a short prompt and the gradient of a step are no further from f32's
/// than the CPU's in bf16 are, or all but. Half a minute on two cores of the virtual GPU's.
#[cfg(all(feature = "gguf", feature = "cli", feature = "cuda"))]
#[test]
fn smollm2_on_a_gpu() {
    let Some(path) = demo_model() else { return };
    common::gpu::run_once("smollm2_on_a_gpu", |cuda| {
        let weights = Arc::new(load(&path, &LoadOptions::default(), &quiet).unwrap());
        let prompt = &Tensors::open("smollm2.safetensors").ids("input_ids")[..12];
        let on_cpu = Loaded::on_cpu(Arc::new(Cpu::new(2)), weights.clone());
        let table = Dispatch::modelled(cuda.info().capability, &weights.config);
        let gpu = Gpu::new(cuda, &weights, table).unwrap();
        let on_gpu = Loaded::on_gpu(on_cpu.cpu.clone(), weights.clone(), gpu);

        let fine = logits_on::<f32>(&on_cpu, None, prompt);
        let cpu = apart_in_norm(&logits_on::<bf16>(&on_cpu, None, prompt), &fine);
        let gpu = apart_in_norm(&logits_on::<bf16>(&on_gpu, None, prompt), &fine);
        assert_within(&format!("SmolLM2 logits, the CPU {cpu:.1e}"), gpu, TWIN * cpu);

        // An adapter whose B is not zero, so that A has a gradient, too.
        let config = LoraConfig { r: 16, lora_alpha: 16.0, ..LoraConfig::default() };
        let mut adapter = Adapter::new(config, &weights.config, 1).unwrap();
        let mut rng = common::Rng::new(2);
        for module in &adapter.modules {
            for x in &mut adapter.params[module.b_range()] {
                *x = 0.01 * rng.normal() as f32;
            }
        }
        let document = Document { ids: prompt.to_vec(), mask: vec![true; prompt.len()] };
        let batch = pack([&document]);
        let gradient = |model: &Loaded, fine: bool| {
            if fine {
                step::<f32>(model, &adapter, &batch)
            } else {
                step::<bf16>(model, &adapter, &batch)
            }
        };
        let fine = gradient(&on_cpu, true);
        let cpu = apart_in_norm(&gradient(&on_cpu, false), &fine);
        let gpu = apart_in_norm(&gradient(&on_gpu, false), &fine);
        assert_within(&format!("SmolLM2 gradient, the CPU {cpu:.1e}"), gpu, TWIN * cpu);
    });
}

/// The gradient of a batch's mean loss.
fn step<E: GemmElement>(model: &Loaded, adapter: &Adapter, batch: &MicroBatch) -> Vec<f32> {
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let mut engine = Engine::<E>::new(model, Some(adapter), kind, Placement::Packed).unwrap();
    engine.zero_grads().unwrap();
    engine.run(batch, 1.0 / batch.targets.len() as f32).unwrap();
    engine.grads().unwrap().to_vec()
}

/// The demo model in a cache or at `DAYRUN_DEMO_MODEL`; without it a line that says so.
#[cfg(all(feature = "gguf", feature = "cli"))]
fn demo_model() -> Option<std::path::PathBuf> {
    let sources = Sources::from_env();
    let cached = sources.cache.map(|dir| dir.join("models").join(DEMO.file));
    let named = std::env::var_os("DAYRUN_DEMO_MODEL").map(std::path::PathBuf::from);
    let path = named.or(cached).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("SKIPPED: the demo model is in no cache; `dayrun quickstart` fetches it");
    }
    path
}

/// SmolLM2 from its GGUF, through NF4 as CUDA quantises. The model is 98 MB and not in the
/// repository: looked for in the caches (or at `DAYRUN_DEMO_MODEL`), never fetched.
#[cfg(all(feature = "gguf", feature = "cli"))]
#[test]
fn smollm2_logits() {
    let Some(path) = demo_model() else { return };
    let weights = Arc::new(load(&path, &LoadOptions::default(), &quiet).unwrap());
    let golden = Tensors::open("smollm2.safetensors");
    let prompt = golden.ids("input_ids");
    let all = logits(&weights, None, &prompt);
    let vocab = golden.ids("vocab_ids");
    let got: Vec<f32> = all
        .chunks_exact(weights.config.vocab_size)
        .flat_map(|row| vocab.iter().map(|&v| row[v as usize]))
        .collect();
    let want = golden.floats("logits");
    // Bounded by the deviation of all logits, not of the sample.
    let std = f64::from(golden.floats("std")[0]);
    assert!(std > 1.0);
    let distance = apart(&got, &want) * golden::std(&want) / std;
    assert_within("SmolLM2 logits", distance, LOGITS);
    let mistakes = golden.names().into_iter().filter(|name| name.starts_with("mistake."));
    let mistakes: Vec<String> = mistakes.collect();
    assert_eq!(mistakes.len(), 4);
    for name in mistakes {
        let wrong = golden.floats(&name);
        assert_beyond(&name, apart(&got[got.len() - wrong.len()..], &wrong), LOGITS);
    }
}
