//! The training step: what it reports, what it updates, and what it leaves alone when it fails.

use dayrun::adapter::Adapter;
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::device::memory::Placement;
use dayrun::model::Loaded;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::train::{StepError, StepReport, Trainer, TrainerOptions};
use half::bf16;
use std::sync::Arc;

use crate::common::{DType, Tol, assert_close, assert_same_bits, dot, to_f64};
use crate::forward::losses;
use crate::tiny::{adapter, cpu, cpus, documents, pack, weights};

const OPTIONS: TrainerOptions = TrainerOptions {
    micro_batch_tokens: 160,
    beta1: 0.9,
    beta2: 0.999,
    eps: 1e-8,
    weight_decay: 0.01,
    max_grad_norm: 1.0,
    neftune_alpha: 0.0,
    seed: 0,
    placement: Placement::Packed,
};

fn steps<E: GemmElement>(
    cpu: &Arc<Cpu>,
    options: TrainerOptions,
    batches: &[&[MicroBatch]],
) -> (Vec<f64>, Adapter) {
    let weights = weights(64, true);
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 1);
    let mut trainer =
        Trainer::<E>::new(&Loaded::on_cpu(cpu.clone(), weights), adapter, options).unwrap();
    let losses = batches.iter().map(|batches| trainer.step(batches, 1e-3).unwrap().loss).collect();
    (losses, trainer.adapter().unwrap().clone())
}

fn same_bits_everywhere<E: GemmElement>() {
    let many = [pack(&documents(&[70, 80, 3], 1)), pack(&documents(&[150], 2))];
    let few = [pack(&documents(&[20, 5], 3))];
    let batches: Vec<&[MicroBatch]> = vec![&many, &few, &many, &few, &many];
    let separate = TrainerOptions { placement: Placement::Separate, ..OPTIONS };
    for pair in cpus().chunks(2) {
        let four = Arc::new(Cpu::with_level(pair[0].level, 4));
        let first = steps::<E>(&pair[0], OPTIONS, &batches);
        for other in [
            steps::<E>(&pair[1], OPTIONS, &batches),
            steps::<E>(&four, OPTIONS, &batches),
            steps::<E>(&pair[0], separate, &batches),
        ] {
            assert_same_bits("losses", &first.0, &other.0);
            assert_same_bits("parameters", &first.1.params, &other.1.params);
        }
    }
}

#[test]
fn threads_and_placement_change_nothing() {
    same_bits_everywhere::<f32>();
    same_bits_everywhere::<bf16>();
}

#[test]
fn a_step_reports_the_mean_over_all_loss_tokens_and_the_gradient_norm() {
    let weights = weights(96, false);
    let adapter = adapter(&weights.config, 4, &[Linear::Q, Linear::V], 2);
    let batches = [pack(&documents(&[70, 80, 3], 1)), pack(&documents(&[9], 2))];
    let mut all = Vec::new();
    for batch in &batches {
        all.extend(to_f64(&losses::<f32>(
            &cpu(),
            &weights,
            Some(&adapter),
            batch,
            Placement::Packed,
        )));
    }
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let mut trainer =
        Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights.clone()), adapter, OPTIONS).unwrap();
    let StepReport { step, loss, lr, grad_norm, tokens, loss_tokens, .. } =
        trainer.step(&batches, 2e-3).unwrap();
    assert_eq!((step, lr, tokens, loss_tokens), (1, 2e-3, 162, all.len()));
    assert_close("loss", &[loss], &[mean], Tol::new(DType::F64).rounds(all.len()));
    let grads = to_f64(trainer.gradients().unwrap());
    let norm = dot(&grads, &grads).sqrt();
    assert_close("grad_norm", &[grad_norm], &[norm], Tol::new(DType::F64).rounds(grads.len()));
    // The next step's loss is that of the adapter as it is now, not of the one before.
    let moved = trainer.adapter().unwrap().clone();
    let want: f64 = batches
        .iter()
        .map(|b| losses::<f32>(&cpu(), &weights, Some(&moved), b, Placement::Packed))
        .flat_map(|losses| to_f64(&losses))
        .sum::<f64>()
        / all.len() as f64;
    assert!(want < mean, "a step made the loss worse: {mean} to {want}");
    let report = trainer.step(&batches, 2e-3).unwrap();
    assert_eq!(report.step, 2);
    // Nothing of the first step's gradients is left in the second's.
    let mut fresh = Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights), moved, OPTIONS).unwrap();
    fresh.step(&batches, 2e-3).unwrap();
    assert_same_bits("gradients", trainer.gradients().unwrap(), fresh.gradients().unwrap());
    assert_close("loss", &[report.loss], &[want], Tol::new(DType::F64).rounds(all.len()));
}

/// The first AdamW step moves every parameter by lr·sign(gradient), after the decay, unless its
/// gradient is near eps.
#[test]
fn the_first_update_is_a_step_of_lr_against_the_gradient() {
    let weights = weights(64, true);
    let before = adapter(&weights.config, 8, &Linear::ALL, 3);
    let mut trainer =
        Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights), before.clone(), OPTIONS).unwrap();
    let lr = 1e-3;
    let report = trainer.step(&[pack(&documents(&[50, 50], 4))], lr).unwrap();
    let clip = (OPTIONS.max_grad_norm / (report.grad_norm + 1e-6)).min(1.0);
    let grads = to_f64(trainer.gradients().unwrap());
    let want: Vec<f64> = (before.params.iter().zip(&grads))
        .map(|(&p, g)| {
            let g = g * clip;
            f64::from(p) * (1.0 - lr * OPTIONS.weight_decay) - lr * g / (g.abs() + OPTIONS.eps)
        })
        .collect();
    // Parameters are below 2 and rounded once by the decay and once by the update.
    let tol = Tol::new(DType::F32).steps(4).magnitude(2.0);
    assert_close("parameters", &trainer.adapter().unwrap().params, &want, tol);
}

#[test]
fn the_loss_falls() {
    fn check<E: GemmElement>() {
        let batch = [pack(&documents(&[30, 30, 30], 5))];
        let batches: Vec<&[MicroBatch]> = vec![&batch; 40];
        let options = TrainerOptions { weight_decay: 0.0, ..OPTIONS };
        let (losses, _) = steps::<E>(&cpu(), options, &batches);
        assert!(losses[39] < 0.7 * losses[0], "{losses:?}");
    }
    check::<f32>();
    check::<bf16>();
}

#[test]
fn a_failed_step_leaves_the_adapter_as_it_was() {
    let weights = weights(64, true);
    let good = pack(&documents(&[20, 9], 6));
    for (place, value) in [(0, f32::NAN), (700, f32::INFINITY), (1500, f32::NEG_INFINITY)] {
        let mut adapter = adapter(&weights.config, 8, &Linear::ALL, 4);
        adapter.params[place] = value;
        let mut trainer =
            Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights.clone()), adapter.clone(), OPTIONS)
                .unwrap();
        let error = trainer.step(std::slice::from_ref(&good), 1e-3).unwrap_err();
        let StepError::Parameter { step: 1, tensor, .. } = &error else { panic!("{error}") };
        assert!(*tensor == adapter.tensor_at(place) && error.hint().is_some(), "{error}");
        assert_same_bits("parameters", &trainer.adapter().unwrap().params, &adapter.params);
        assert_eq!(trainer.steps(), 0);
    }
    // Finite losses, but a gradient that overflows: the tensor is named.
    let mut adapter = adapter(&weights.config, 8, &[Linear::Down], 4);
    let huge = adapter.modules[1].a_range();
    adapter.params[huge.clone()].fill(0.0);
    let b = adapter.modules[1].b_range();
    adapter.params[b].fill(3e38);
    let mut trainer =
        Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights), adapter.clone(), OPTIONS).unwrap();
    let error = trainer.step(std::slice::from_ref(&good), 1e-3).unwrap_err();
    let StepError::Gradient { step: 1, tensor } = &error else { panic!("{error}") };
    assert_eq!(*tensor, adapter.tensor_at(huge.start), "{error}");
    assert_same_bits("parameters", &trainer.adapter().unwrap().params, &adapter.params);
}

#[test]
fn a_good_step_after_a_failed_one_is_as_if_nothing_had_been() {
    let weights = weights(64, true);
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 4);
    let good = [pack(&documents(&[20, 9], 6))];
    let mut bad = good.clone();
    bad[0].targets[3] = 259;
    let masked = MicroBatch { loss_positions: vec![], targets: vec![], ..good[0].clone() };
    let new = || {
        Trainer::<f32>::new(&Loaded::on_cpu(cpu(), weights.clone()), adapter.clone(), OPTIONS)
            .unwrap()
    };
    let (mut plain, mut tried) = (new(), new());
    let error = tried.step(&bad, 1e-3).unwrap_err();
    assert!(matches!(error, StepError::Engine { step: 1, .. }), "{error}");
    for nothing in [&[][..], std::slice::from_ref(&masked)] {
        let error = tried.step(nothing, 1e-3).unwrap_err();
        assert!(matches!(error, StepError::NoLossTokens { step: 1 }), "{error}");
    }
    // A batch without a loss token beside one with some adds nothing.
    let both = [masked, good[0].clone()];
    let (a, b) = (plain.step(&good, 1e-3).unwrap(), tried.step(&both, 1e-3).unwrap());
    assert_eq!((a.step, a.loss, a.grad_norm), (b.step, b.loss, b.grad_norm));
    assert_same_bits(
        "parameters",
        &plain.adapter().unwrap().params,
        &tried.adapter().unwrap().params,
    );
}
