//! The whole model on a GPU: against the f64 model and the CPU's engine, and the same bits however its
//! buffers are placed and its blocks are scheduled.

use std::sync::Arc;

use dayrun::adapter::Adapter;
use dayrun::device::cuda::Cuda;
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::model::cuda::Gpu;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Dispatch, Engine, Loaded};
use half::bf16;

use crate::common::gpu::{self, Bits};
use crate::common::{DType, Tol, assert_close, assert_same_bits, dot, to_f64};
use crate::forward::{max_abs, tolerance};
use crate::reference::Model;
use crate::tiny::{adapter, cpu, documents, pack, weights_of, wide_config};

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
    let r = adapter.config.r;
    for range in adapter.modules.iter().flat_map(|m| [m.a_range(r), m.b_range(r)]) {
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

/// Losses against the f64 model, gradients against the CPU's in f32, both placements the same bits.
fn step(
    r: usize,
    tied: bool,
    targets: &[Linear],
    way: fn(&dayrun::model::config::LlamaConfig) -> Dispatch,
) -> impl Fn(&Arc<Cuda>, &mut Bits) {
    move |cuda, bits| {
        let weights = weights_of(wide_config(tied));
        let adapter = rounded(adapter(&weights.config, r, targets, 3));
        let docs = documents(&[21, 1, 2, 34, 9], 1);
        let batch = pack(&docs);
        let model = on_gpu(cuda, &weights, way(&weights.config));
        let (losses, grads) = train(&model, &adapter, &batch, Placement::Separate);

        let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
        let reference = Model::new::<bf16>(&weights);
        let want = reference.losses(&batch, Some((&adapter, &params)));
        let magnitude = max_abs(&reference.forward(&docs[3], Some((&adapter, &params))).logits);
        assert_close("losses", &losses, &want, tolerance::<bf16>(magnitude));
        let on_cpu = Loaded::on_cpu(cpu(), weights.clone());
        let kind = Kind::Train { tokens: batch.tokens.len() };
        let mut fine =
            Engine::<f32>::new(&on_cpu, Some(&adapter), kind, Placement::Separate).unwrap();
        fine.run(&batch, 1.0 / batch.targets.len() as f32).unwrap();
        near("gradients", &adapter, &grads, fine.grads().unwrap());

        let packed = train(&model, &adapter, &batch, Placement::Packed);
        assert_same_bits("losses in one arena", &packed.0, &losses);
        assert_same_bits("gradients in one arena", &packed.1, &grads);
        bits.add(&losses);
        bits.add(&grads);
    }
}

#[test]
fn a_step_fused_at_rank_8() {
    gpu::run("cuda::a_step_fused_at_rank_8", step(8, true, &Linear::ALL, Dispatch::all_fused));
}

#[test]
fn a_step_by_scratch_at_rank_5() {
    gpu::run(
        "cuda::a_step_by_scratch_at_rank_5",
        step(5, false, &Linear::ALL, Dispatch::all_scratch),
    );
}
