//! A small model of every family on a GPU: against transformers' and PEFT's logits, losses and gradients
//! (tests/golden/families, made by scripts/golden_families.py), and against the CPU's engine.

use std::sync::Arc;

use dayrun::adapter::{Adapter, peft};
use dayrun::device::cuda::Cuda;
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::cuda::GpuWeights;
use dayrun::model::engine::{Inputs, Noise};
use dayrun::model::generate::{Generator, Limits, Sampling};
use dayrun::model::kv_cache::KvCache;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Dispatch, Engine, LoadOptions, Loaded, load};
use dayrun::progress::quiet;
use half::bf16;
use serde_json::Value;

use super::{on_gpu, train};
use crate::common::golden::{self, Tensors, apart_in_norm, assert_within};
use crate::common::gpu::{self, Bits};
use crate::common::runs::{Document, ids, pack, wanted_gradient};
use crate::common::tol::{TWIN, logits_in_bf16};
use crate::tiny::cpu;

/// One family's model, adapter and what other tools make of them.
struct Family {
    name: &'static str,
    weights: Arc<Weights>,
    adapter: Adapter,
    json: Value,
    want: Tensors,
}

impl Family {
    fn open(name: &'static str) -> Self {
        let path = |file: &str| golden::path(&format!("families/{name}/{file}"));
        let weights = Arc::new(load(&path("bnb"), &LoadOptions::default(), &quiet).unwrap());
        let adapter = peft::load(&path("adapter"), &weights.config, "default").unwrap();
        let json = serde_json::from_slice(&std::fs::read(path("golden.json")).unwrap()).unwrap();
        let want = Tensors::open(&format!("families/{name}/golden.safetensors"));
        Self { name, weights, adapter, json, want }
    }

    fn layers(&self) -> usize {
        self.weights.config.num_hidden_layers
    }

    /// The longest prompt: longer than the window and the original context.
    fn prompt(&self) -> Vec<u32> {
        ids(&self.json["prompts"][3])
    }

    fn documents(&self) -> Vec<Document> {
        self.json["documents"].as_array().unwrap().iter().map(Document::read).collect()
    }

    /// The same model on the GPU, either way through a 4-bit linear.
    fn on_gpu(&self, cuda: &Arc<Cuda>) -> [Loaded; 2] {
        [Dispatch::all_fused, Dispatch::all_scratch]
            .map(|way| on_gpu(cuda, &self.weights, way(&self.weights.config)))
    }

    fn on_cpu(&self) -> Loaded {
        Loaded::on_cpu(cpu(), self.weights.clone())
    }

    /// The distance in norm that bf16 may bring about: that of the CPU's engine, which rounds in the same
    /// places, or all but; a softmax that turns from one key to another can make it large.
    fn allowed(&self, on_cpu: impl Fn(&Loaded) -> Vec<f32>, want: &[f32]) -> f64 {
        TWIN * apart_in_norm(&on_cpu(&self.on_cpu()), want)
    }
}

/// The logits of a prompt that is read in pieces which end at `ends`.
fn logits_in_pieces(model: &Loaded, adapter: &Adapter, prompt: &[u32], ends: &[usize]) -> Vec<f32> {
    let n = prompt.len();
    let kind = Kind::Generate { tokens: n, rows: n };
    let mut engine = Engine::<bf16>::new(model, Some(adapter), kind, Placement::Separate).unwrap();
    let mut cache = KvCache::<bf16>::new(model, 1, n).unwrap();
    let (mut logits, mut start) = (Vec::new(), 0);
    for &end in ends {
        let positions: Vec<u32> = (0..(end - start) as u32).collect();
        let position_ids: Vec<u32> = (start as u32..end as u32).collect();
        let cu_seqlens = [0, (end - start) as u32];
        let inputs = Inputs {
            tokens: &prompt[start..end],
            position_ids: &position_ids,
            cu_seqlens: &cu_seqlens,
            positions: &positions,
            targets: &[],
            loss_scale: 0.0,
            noise: Noise::default(),
        };
        engine.execute(&inputs, Some(&mut cache)).unwrap();
        cache.advance(&cu_seqlens);
        logits.extend(engine.logits());
        start = end;
    }
    logits
}

/// Within bf16's roundings of PEFT's in f32; out of them is what transformers makes of planted mistakes: no
/// bias, no norm of q and k, a window off by one, rope where there is none, scaling left out.
fn logits(family: &Family, cuda: &Arc<Cuda>, bits: &mut Bits) {
    let (want, prompt) = (family.want.floats("adapter.3"), family.prompt());
    let run = |model: &Loaded| logits_in_pieces(model, &family.adapter, &prompt, &[20, 44, 45]);
    let allowed = family.allowed(run, &want);
    let names = family.want.names().into_iter().filter(|name| name.starts_with("mistake."));
    let mistakes: Vec<String> = names.collect();
    assert!(mistakes.len() >= 2, "{}: {mistakes:?}", family.name);
    for model in family.on_gpu(cuda) {
        let got = run(&model);
        let what = format!("{} logits", family.name);
        assert_within(&what, apart_in_norm(&got, &want), allowed);
        for name in &mistakes {
            let moved = apart_in_norm(&got, &family.want.floats(name));
            assert!(moved > allowed, "{what}: {name} passes, too: {moved} of {allowed}");
        }
        bits.add(&got);
    }
}

/// Losses and gradients of packed documents, as near to those of PEFT in f32 as bf16 lets them.
fn step(family: &Family, cuda: &Arc<Cuda>, bits: &mut Bits) {
    let documents = family.documents();
    let batch = pack(&documents);
    let wanted = wanted_gradient(&family.adapter, &family.want);
    let largest = family.want.floats("adapter.3").iter().fold(0f32, |a, x| a.max(x.abs()));
    let bound = logits_in_bf16(family.layers(), f64::from(largest));
    let on_cpu = |model: &Loaded| train(model, &family.adapter, &batch, Placement::Packed).1;
    let allowed = family.allowed(on_cpu, &wanted);
    for model in family.on_gpu(cuda) {
        let (losses, grads) = train(&model, &family.adapter, &batch, Placement::Packed);
        let mut rest = losses.iter().map(|&loss| f64::from(loss));
        for (i, document) in documents.iter().enumerate() {
            let count = document.loss_tokens();
            let got: f64 = rest.by_ref().take(count).sum();
            let want = f64::from(family.want.floats(&format!("nll.{i}"))[0]);
            let off = (got - want).abs() / count as f64;
            assert_within(&format!("{} loss {i}", family.name), off, bound);
        }
        let off = apart_in_norm(&grads, &wanted);
        assert_within(&format!("{} gradient", family.name), off, allowed);
        bits.add(&losses);
        bits.add(&grads);
    }
}

/// Prompts around the window, greedily: the CPU's answers.
fn answers(family: &Family, cuda: &Arc<Cuda>, bits: &mut Bits) {
    let prompts: Vec<Vec<u32>> = [1, 2].map(|i| ids(&family.json["prompts"][i])).to_vec();
    let limits = Limits { max_new_tokens: 3, stop_ids: &[], stop: None };
    let answer = |model: &Loaded| {
        let mut generator = Generator::<bf16>::new(model, Some(&family.adapter), 2, 24).unwrap();
        generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap()
    };
    let want = answer(&family.on_cpu());
    for model in family.on_gpu(cuda) {
        let got = answer(&model);
        assert_eq!(got, want, "{}", family.name);
        bits.add(&got.concat());
    }
}

fn gradient_in_f32(family: &Family, batch: &MicroBatch) -> Vec<f32> {
    let kind = Kind::Train { tokens: batch.tokens.len() };
    let (model, adapter) = (family.on_cpu(), Some(&family.adapter));
    let mut engine = Engine::<f32>::new(&model, adapter, kind, Placement::Separate).unwrap();
    engine.run(batch, 1.0 / batch.targets.len() as f32).unwrap();
    engine.grads().unwrap().to_vec()
}

/// The CPU up to an op and the GPU from there: no further from f32 than the CPU alone, or all but.
fn from_any_op_on(family: &Family, cuda: &Arc<Cuda>, ops: &[&str], bits: &mut Bits) {
    let batch = pack(&family.documents()[..2]);
    let fine = gradient_in_f32(family, &batch);
    let (_, on_cpu) = train(&family.on_cpu(), &family.adapter, &batch, Placement::Separate);
    let [_, mut model] = family.on_gpu(cuda);
    let bound = TWIN * apart_in_norm(&on_cpu, &fine);
    for &op in ops {
        model.gpu.as_mut().unwrap().cpu_until = Some(op.into());
        let (_, grads) = train(&model, &family.adapter, &batch, Placement::Packed);
        assert_within(
            &format!("{} from {op} on", family.name),
            apart_in_norm(&grads, &fine),
            bound,
        );
        bits.add(&grads);
    }
}

/// What the plan counts is what is uploaded: biases and norms of heads included.
fn bytes(family: &Family, cuda: &Arc<Cuda>) {
    let before = cuda.used();
    let model = on_gpu(cuda, &family.weights, Dispatch::all_fused(&family.weights.config));
    assert_eq!(cuda.used() - before, GpuWeights::bytes_of(&family.weights), "{}", family.name);
    drop(model);
}

#[test]
fn llama3() {
    gpu::run("cuda::families::llama3", |cuda, bits| {
        let family = Family::open("llama3");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
    });
}

#[test]
fn llama_with_biases_and_linear_scaling() {
    gpu::run("cuda::families::llama_with_biases_and_linear_scaling", |cuda, bits| {
        let family = Family::open("llama-linear");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
        answers(&family, cuda, bits);
        bytes(&family, cuda);
    });
}

#[test]
fn mistral() {
    gpu::run("cuda::families::mistral", |cuda, bits| {
        let family = Family::open("mistral");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
        answers(&family, cuda, bits);
        from_any_op_on(&family, cuda, &["layers.1.attention", "layers.1.attention.backward"], bits);
    });
}

#[test]
fn qwen2() {
    gpu::run("cuda::families::qwen2", |cuda, bits| {
        let family = Family::open("qwen2");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
        bytes(&family, cuda);
    });
}

#[test]
fn qwen2_with_sliding_layers() {
    gpu::run("cuda::families::qwen2_with_sliding_layers", |cuda, bits| {
        let family = Family::open("qwen2-sliding");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
    });
}

#[test]
fn qwen3() {
    gpu::run("cuda::families::qwen3", |cuda, bits| {
        let family = Family::open("qwen3");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
        answers(&family, cuda, bits);
        bytes(&family, cuda);
        let ops = ["layers.1.k_norm", "layers.1.attention", "layers.0.q_norm.backward"];
        from_any_op_on(&family, cuda, &ops, bits);
    });
}

#[test]
fn smollm3() {
    gpu::run("cuda::families::smollm3", |cuda, bits| {
        let family = Family::open("smollm3");
        logits(&family, cuda, bits);
        step(&family, cuda, bits);
        answers(&family, cuda, bits);
        from_any_op_on(&family, cuda, &["layers.3.attention"], bits);
    });
}
