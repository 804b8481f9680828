//! Adapter gradients: against the derivative of the f64 model's loss, and accumulated however the
//! documents are cut into micro-batches.

use std::sync::Arc;

use dayrun::adapter::Adapter;
use dayrun::device::cpu::{Cpu, GemmElement};
use dayrun::device::memory::Placement;
use dayrun::model::batch::MicroBatch;
use dayrun::model::config::Linear;
use dayrun::model::llama::Kind;
use dayrun::model::weights::Weights;
use dayrun::model::{Engine, Loaded};
use half::bf16;

use crate::common::{DType, Rng, Tol, assert_close, assert_same_bits, dot, to_f64};
use crate::reference::Model;
use crate::tiny::{adapter, adapter_of, cpu, cpus, documents, mixed, pack, uneven, weights};

/// Gradients of the mean loss over all batches, run one behind the other.
fn gradients<E: GemmElement>(
    cpu: &Arc<Cpu>,
    weights: &Arc<Weights>,
    adapter: &Adapter,
    batches: &[MicroBatch],
    placement: Placement,
) -> Vec<f32> {
    let tokens = batches.iter().map(|batch| batch.tokens.len()).max().unwrap();
    let total: usize = batches.iter().map(|batch| batch.targets.len()).sum();
    let kind = Kind::Train { tokens };
    let mut engine = Engine::<E>::new(
        &Loaded::on_cpu(cpu.clone(), weights.clone()),
        Some(adapter),
        kind,
        placement,
    )
    .unwrap();
    for batch in batches {
        engine.run(batch, 1.0 / total as f32).unwrap();
    }
    engine.grads().unwrap().to_vec()
}

/// The A and B ranges of every module, with names.
fn tensors(adapter: &Adapter) -> Vec<(String, std::ops::Range<usize>)> {
    (adapter.modules.iter())
        .flat_map(|m| [m.a_range(), m.b_range()])
        .map(|range| (adapter.tensor_at(range.start), range))
        .collect()
}

/// Gradients are products of what a forward pass keeps and what a backward pass brings, each with
/// the roundings of two layers of `values` (see `forward::tolerance_of`), and sums over the tokens.
fn tolerance(values: usize, tokens: usize) -> Tol<'static> {
    Tol::new(DType::F32).steps(2 * 3 * values * 2).sum_len(2 * 3 * 7 * 2 * 145 + tokens)
}

/// For every tensor the derivative along a random direction, which every element has a part in,
/// and along single elements.
fn equal_the_derivative(weights: Arc<Weights>, r: usize, targets: &[Linear], seed: u64) {
    let adapter = adapter(&weights.config, r, targets, seed);
    assert_eq!(adapter.modules.len(), 2 * targets.len());
    equal_the_derivative_of(&weights, 12, &adapter, seed);
}

/// As [`equal_the_derivative`], for any adapter, and layers that round `values` values.
pub fn equal_the_derivative_of(
    weights: &Arc<Weights>,
    values: usize,
    adapter: &Adapter,
    seed: u64,
) {
    let model = Model::new::<f32>(weights);
    let batch = pack(&documents(&[9, 1, 14], seed));
    let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
    let loss = |params: &[f64]| {
        let losses = model.losses(&batch, Some((adapter, params)));
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    let all: Vec<Vec<f32>> = cpus()
        .iter()
        .map(|cpu| {
            gradients::<f32>(
                cpu,
                weights,
                adapter,
                std::slice::from_ref(&batch),
                Placement::Separate,
            )
        })
        .collect();
    let mut rng = Rng::new(seed);
    for (name, range) in tensors(adapter) {
        let len = range.len();
        let norm = {
            let g = to_f64(&all[0][range.clone()]);
            dot(&g, &g).sqrt()
        };
        assert!(norm > 0.0, "{name} has no gradient");
        let mut directions: Vec<Vec<f64>> = vec![rng.values(len, 1.0)];
        for _ in 0..2 {
            let mut one = vec![0.0; len];
            one[rng.below(len)] = 1.0;
            directions.push(one);
        }
        for direction in directions {
            // Steps as long as a thousandth of what moves the loss, extrapolated.
            let size = dot(&direction, &direction).sqrt();
            let central = |h: f64| {
                let at = |h: f64| {
                    let mut moved = params.clone();
                    let part = moved[range.clone()].iter_mut().zip(&direction);
                    part.for_each(|(x, d)| *x += h * d / size);
                    loss(&moved)
                };
                (at(h) - at(-h)) / (2.0 * h)
            };
            const H: f64 = 1.0 / 1024.0;
            let want = (4.0 * central(H / 2.0) - central(H)) / 3.0;
            for (grads, cpu) in all.iter().zip(cpus()) {
                let got = dot(&to_f64(&grads[range.clone()]), &direction) / size;
                let tol = tolerance(values, batch.tokens.len()).magnitude(norm);
                assert_close(&format!("{name} on {}", cpu.name()), &[got], &[want], tol);
            }
        }
    }
}

#[test]
fn of_all_linears_at_rank_8() {
    equal_the_derivative(weights(64, true), 8, &Linear::ALL, 1);
}

#[test]
fn of_a_few_linears_at_rank_5() {
    equal_the_derivative(weights(96, false), 5, &[Linear::Q, Linear::V, Linear::Up], 2);
}

#[test]
fn of_the_other_linears_at_rank_17() {
    equal_the_derivative(
        weights(96, true),
        17,
        &[Linear::K, Linear::O, Linear::Gate, Linear::Down],
        3,
    );
}

#[test]
fn of_one_linear_at_rank_1() {
    equal_the_derivative(weights(64, false), 1, &[Linear::Down], 4);
    equal_the_derivative(weights(64, false), 1, &[Linear::Q], 5);
}

#[test]
fn of_linears_that_are_held_in_different_ways() {
    equal_the_derivative(mixed(&weights(64, true)), 8, &Linear::ALL, 6);
}

#[test]
fn of_ranks_and_scales_of_their_own() {
    let weights = weights(64, true);
    let adapter = adapter_of(uneven(9), &weights.config, 9);
    assert_eq!(adapter.modules.len(), 13);
    equal_the_derivative_of(&weights, 12, &adapter, 9);
}

/// bf16 gradients point where the f32 ones do.
#[test]
fn in_bf16_are_near_those_in_f32() {
    let weights = weights(64, true);
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 6);
    let batches = [pack(&documents(&[60, 3, 90], 6))];
    for cpu in cpus() {
        let fine = gradients::<f32>(cpu, &weights, &adapter, &batches, Placement::Separate);
        let coarse = gradients::<bf16>(cpu, &weights, &adapter, &batches, Placement::Separate);
        for (name, range) in tensors(&adapter) {
            let (fine, coarse) = (to_f64(&fine[range.clone()]), to_f64(&coarse[range]));
            let norm = dot(&fine, &fine).sqrt();
            let off: Vec<f64> = fine.iter().zip(&coarse).map(|(a, b)| a - b).collect();
            // A root of the sum of squares over 2·3·12·2 independent roundings, and as much for
            // NF4 values rounded to bf16.
            let rounds = (2.0 * 144f64).sqrt() as usize;
            let tol = Tol::new(DType::Bf16).rounds(rounds).magnitude(norm);
            assert_close(&name, &[dot(&off, &off).sqrt()], &[0.0], tol);
        }
    }
}

#[test]
fn do_not_depend_on_threads_or_placement() {
    fn check<E: GemmElement>() {
        let weights = weights(96, false);
        let adapter = adapter(&weights.config, 5, &[Linear::Q, Linear::O, Linear::Down], 7);
        let batches = [pack(&documents(&[150, 60, 9], 7)), pack(&documents(&[30], 8))];
        for pair in cpus().chunks(2) {
            let run = |i: usize, placement| {
                gradients::<E>(&pair[i], &weights, &adapter, &batches, placement)
            };
            let first = run(0, Placement::Packed);
            assert_same_bits("1 and 2 threads", &run(1, Placement::Packed), &first);
            assert_same_bits("placements", &run(1, Placement::Separate), &first);
        }
    }
    check::<f32>();
    check::<bf16>();
}

#[test]
fn of_one_batch_equal_those_of_two() {
    let weights = weights(64, true);
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 8);
    let docs = documents(&[40, 25], 9);
    let together = [pack(&docs)];
    let apart = [pack(&docs[..1]), pack(&docs[1..])];
    let one = gradients::<f32>(&cpu(), &weights, &adapter, &together, Placement::Packed);
    let two = gradients::<f32>(&cpu(), &weights, &adapter, &apart, Placement::Packed);
    for (name, range) in tensors(&adapter) {
        let (one, two) = (&one[range.clone()], to_f64(&two[range]));
        // Only the order of the sum over tokens differs. An element's terms are at most as large
        // as the tensor's norm times a root of the number of tokens.
        let magnitude = dot(&two, &two).sqrt() * 65f64.sqrt();
        assert_close(&name, one, &two, Tol::new(DType::F32).sum_len(2 * 65).magnitude(magnitude));
    }
}
