//! What the families add to Llama, each of them in a tiny model: biases, norms of q and k, layers without rope,
//! a window in one of two layers, scaled rope. Against the f64 model, as the others.

use std::sync::Arc;

use dayrun::device::cpu::GemmElement;
use dayrun::device::memory::Placement;
use dayrun::model::config::{Linear, LlamaConfig};
use dayrun::model::family::{Differences, LayerKind};
use dayrun::model::rope_scaling::RopeScaling;
use dayrun::model::weights::Weights;
use half::bf16;

use crate::common::assert_same_bits;
use crate::forward::{equals_reference, logits, logits_in_pieces, losses, max_abs, tolerance_of};
use crate::generate::greedy_tokens_are_the_most_likely;
use crate::gradients::equal_the_derivative_of;
use crate::reference::Model;
use crate::tiny::{adapter, config, cpus, documents, pack, weights_of};

/// Values that a layer rounds: Llama's, and q and k behind their norms.
const VALUES: usize = 14;

/// Shorter than the documents of all tests, the gradients' included.
const WINDOW: usize = 5;

/// Every difference there is, none of them left to one layer's luck: the first layer has a window and rope, the
/// second neither. `llama3` goes over from kept to stretched inside of a head's eight pairs.
fn all() -> Differences {
    Differences {
        qkv_bias: true,
        o_bias: true,
        qk_norm: true,
        rope_scaling: RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 64,
        },
        layers: vec![
            LayerKind { rope: true, sliding_window: Some(WINDOW) },
            LayerKind { rope: false, sliding_window: None },
        ],
    }
}

/// Qwen2's biases alone, and a window in a layer without rope.
fn some() -> Differences {
    Differences {
        qkv_bias: true,
        rope_scaling: RopeScaling::Linear { factor: 3.0 },
        layers: vec![LayerKind::LLAMA, LayerKind { rope: false, sliding_window: Some(WINDOW) }],
        ..Differences::default()
    }
}

fn model(hidden: usize, tied: bool, differences: Differences) -> Arc<Weights> {
    weights_of(LlamaConfig { differences, ..config(hidden, tied) })
}

fn models() -> [Arc<Weights>; 2] {
    [model(64, true, all()), model(96, false, some())]
}

#[test]
fn logits_equal_reference() {
    for weights in models() {
        equals_reference::<f32>(&weights, VALUES);
        equals_reference::<bf16>(&weights, VALUES);
    }
}

#[test]
fn gradients_equal_the_derivative() {
    for weights in models() {
        let adapter = adapter(&weights.config, 8, &Linear::ALL, 1);
        equal_the_derivative_of(&weights, VALUES, &adapter, 1);
    }
}

#[test]
fn greedy_tokens_are_those_of_full_forward_passes() {
    for weights in models() {
        greedy_tokens_are_the_most_likely(&weights);
    }
}

/// A prompt read in pieces, then token by token: the logits of a document that is read at once.
#[test]
fn the_cache_gives_what_a_forward_pass_gives() {
    fn check<E: GemmElement>(weights: &Arc<Weights>) {
        let adapter = adapter(&weights.config, 5, &Linear::ALL, 2);
        let document = documents(&[90], 5).remove(0);
        let ends: Vec<usize> = [3, 4, 70].into_iter().chain(71..=90).collect();
        for cpu in cpus() {
            let whole = logits::<E>(cpu, weights, Some(&adapter), &document);
            let pieces = logits_in_pieces::<E>(cpu, weights, Some(&adapter), &document, &ends);
            assert_same_bits(&format!("logits on {}", cpu.name()), &pieces, &whole);
        }
    }
    for weights in models() {
        check::<f32>(&weights);
        check::<bf16>(&weights);
    }
}

/// A model without one of its differences is outside of the tolerance that the tests above have.
#[test]
fn each_difference_is_seen() {
    let weights = model(64, true, all());
    let batch = pack(&documents(&[40], 1));
    let reference = Model::new::<f32>(&weights);
    let want = reference.losses(&batch, None);
    let magnitude = max_abs(&reference.forward(&batch.tokens, None).logits);
    let tol = tolerance_of::<f32>(VALUES, magnitude);
    let is_off = |spoil: &dyn Fn(&mut Weights)| {
        let mut weights = Weights::clone(&weights);
        spoil(&mut weights);
        let got = losses::<f32>(&cpus()[0], &Arc::new(weights), None, &batch, Placement::Separate);
        let errors = got.iter().zip(&want).map(|(&got, want)| (f64::from(got) - want).abs());
        errors.enumerate().any(|(i, error)| error > tol.allowed(i, want[i]))
    };
    assert!(!is_off(&|_| ()));
    type Spoil = fn(&mut Differences);
    let spoil: [(&str, Spoil); 6] = [
        ("no norms of q and k", |d| d.qk_norm = false),
        ("no scaling", |d| d.rope_scaling = RopeScaling::None),
        ("rope in a layer without", |d| d.layers[1].rope = true),
        ("no rope in a layer with", |d| d.layers[0].rope = false),
        ("a window one too short", |d| d.layers[0].sliding_window = Some(WINDOW - 1)),
        ("a window one too long", |d| d.layers[0].sliding_window = Some(WINDOW + 1)),
    ];
    for (name, spoil) in spoil {
        assert!(is_off(&|weights| spoil(&mut weights.config.differences)), "{name}");
    }
    for linear in [Linear::Q, Linear::K, Linear::V, Linear::O] {
        let without = |weights: &mut Weights| weights.layers[1].biases[linear as usize] = None;
        assert!(is_off(&without), "no bias of {linear:?}");
    }
    let swapped = |weights: &mut Weights| {
        weights.layers[0].qk_norm.as_mut().expect("the model has them").swap(0, 1);
    };
    assert!(is_off(&swapped), "the norms of q and k in each other's place");
}
