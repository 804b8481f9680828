//! Generation: the tokens that full forward passes give, whatever else is in the batch.

use std::sync::Arc;

use dayrun::adapter::Adapter;
use dayrun::device::cpu::GemmElement;
use dayrun::model::Loaded;
use dayrun::model::config::Linear;
use dayrun::model::generate::{GenerateError, Generator, Limits, Sampling};
use dayrun::model::weights::Weights;
use half::bf16;

use crate::common::{DType, Tol};
use crate::reference::Model;
use crate::tiny::{adapter, cpu, cpus, documents, weights};

fn generate<E: GemmElement>(
    adapter: Option<&Adapter>,
    rows: usize,
    capacity: usize,
    prompts: &[Vec<u32>],
    sampling: &Sampling,
    max_new_tokens: usize,
) -> Vec<Vec<u32>> {
    let mut generator =
        Generator::<E>::new(&Loaded::on_cpu(cpu(), weights(64, true)), adapter, rows, capacity)
            .unwrap();
    let limits = Limits { max_new_tokens, stop_ids: &[], stop: None };
    generator.generate(prompts, sampling, &limits, &mut |_, _| ()).unwrap()
}

/// Greedy decoding must take the f64 model's most likely token, unless two are so near that a
/// rounding decides.
#[test]
fn greedy_tokens_are_the_most_likely_of_full_forward_passes() {
    greedy_tokens_are_the_most_likely(&weights(64, true));
}

pub fn greedy_tokens_are_the_most_likely(weights: &Arc<Weights>) {
    let adapter = adapter(&weights.config, 8, &Linear::ALL, 1);
    let params: Vec<f64> = adapter.params.iter().map(|&x| f64::from(x)).collect();
    let model = Model::new::<f32>(weights);
    let prompts = documents(&[5, 1, 30], 1);
    for cpu in cpus() {
        let mut generator = Generator::<f32>::new(
            &Loaded::on_cpu(cpu.clone(), weights.clone()),
            Some(&adapter),
            2,
            50,
        )
        .unwrap();
        let limits = Limits { max_new_tokens: 12, stop_ids: &[], stop: None };
        let answers =
            generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap();
        for (prompt, answer) in prompts.iter().zip(&answers) {
            assert_eq!(answer.len(), 12);
            let all = [&prompt[..], answer].concat();
            let out = model.forward(&all, Some((&adapter, &params)));
            for (i, &token) in answer.iter().enumerate() {
                let row = &out.logits[(prompt.len() + i - 1) * 259..][..259];
                let best = row.iter().fold(f64::MIN, |a, &b| a.max(b));
                // As far below the best as two logits may be off (see `forward::tolerance`).
                let tol = Tol::new(DType::F32).sum_len(3 * 7 * 2 * 145).magnitude(2.0 * best.abs());
                let short_of_best = best - row[token as usize];
                assert!(short_of_best <= tol.allowed(0, best), "token {i}: {short_of_best}");
            }
        }
    }
}

fn rows_are_alone<E: GemmElement>(sampling: &Sampling) {
    let adapter = adapter(&weights(64, true).config, 5, &Linear::ALL, 2);
    let adapter = Some(&adapter);
    // Longer and shorter than what one run reads of prompts (512), and more than there are rows.
    let prompts = documents(&[3, 550, 1, 64, 300, 2, 65, 17], 2);
    let run = |rows, prompts: &[Vec<u32>]| generate::<E>(adapter, rows, 600, prompts, sampling, 40);
    let all = run(8, &prompts);
    assert!(all.iter().all(|answer| answer.len() == 40));
    for rows in [1, 2, 3, 11] {
        assert_eq!(run(rows, &prompts), all, "with {rows} rows");
    }
    // A row's answer depends on its prompt and place in the list, not on the other prompts.
    let mut others = documents(&[9, 100, 2, 64, 1, 7, 31, 200], 3);
    others[3] = prompts[3].clone();
    assert_eq!(run(4, &others)[3], all[3]);
}

#[test]
fn a_row_does_not_depend_on_the_others() {
    rows_are_alone::<f32>(&Sampling::GREEDY);
    rows_are_alone::<bf16>(&Sampling::GREEDY);
    let sampled = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
    rows_are_alone::<bf16>(&sampled);
}

/// A beginning that all prompts share is read once; answers are those of a prompt alone, also for
/// prompts that wait for a row, and for a second call with another beginning.
#[test]
fn a_shared_beginning_changes_no_answer() {
    let adapter = adapter(&weights(64, true).config, 8, &Linear::ALL, 1);
    let mut generator =
        Generator::<bf16>::new(&Loaded::on_cpu(cpu(), weights(64, true)), Some(&adapter), 3, 400)
            .unwrap();
    let limits = Limits { max_new_tokens: 9, stop_ids: &[], stop: None };
    for (seed, shared) in [(1, 17), (2, 300), (3, 1)] {
        let beginning = documents(&[shared], seed).remove(0);
        let ends = documents(&[4, 1, 9, 2, 30, 1, 6], seed + 10);
        let mut prompts: Vec<Vec<u32>> =
            ends.iter().map(|end| [&beginning[..], end].concat()).collect();
        // One prompt is nothing but the beginning of another.
        prompts[3].truncate(shared + 1);
        let together =
            generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap();
        for (prompt, answer) in prompts.iter().zip(&together) {
            let prompt = std::slice::from_ref(prompt);
            let alone = generate::<bf16>(Some(&adapter), 1, 400, prompt, &Sampling::GREEDY, 9);
            assert_eq!(*answer, alone[0], "shared {shared}");
        }
    }
}

#[test]
fn sampling_is_reproducible_and_keeps_to_top_k_and_top_p() {
    let weights = weights(64, true);
    let model = Model::new::<f32>(&weights);
    let prompts = vec![vec![7, 100, 31]; 64];
    let run = |sampling: &Sampling| generate::<f32>(None, 16, 12, &prompts, sampling, 8);
    let free = Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, seed: 1 };
    let answers = run(&free);
    assert_eq!(answers, run(&free));
    assert_ne!(answers, run(&Sampling { seed: 2, ..free }));
    // The same prompt at another place in the list draws other tokens.
    assert_ne!(answers[0], answers[1]);
    let first_logits = model.forward(&prompts[0], None).logits;
    let row = &first_logits[2 * 259..];
    let mut order: Vec<usize> = (0..259).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let distinct = |answers: &[Vec<u32>]| {
        let mut firsts: Vec<usize> = answers.iter().map(|answer| answer[0] as usize).collect();
        firsts.sort_unstable();
        firsts.dedup();
        firsts
    };
    let within = |sampling: Sampling, allowed: &[usize]| {
        let seen = distinct(&run(&sampling));
        assert!(seen.iter().all(|token| allowed.contains(token)), "{sampling:?}: {seen:?}");
        seen.len()
    };
    let hot = Sampling { temperature: 5.0, ..free };
    // At this temperature 64 draws from 4 tokens miss one less than once in a million seeds.
    assert_eq!(within(Sampling { top_k: 4, ..hot }, &order[..4]), 4);
    assert_eq!(within(Sampling { top_k: 1, ..hot }, &order[..1]), 1);
    assert!(within(hot, &order) > 30);
    // The smallest set of tokens with the probability of three and a half of the most likely is
    // the four most likely ones.
    let at = |temperature: f64| -> Vec<f64> {
        row.iter().map(|x| ((x - row[order[0]]) / temperature).exp()).collect()
    };
    let p = at(5.0);
    let kept = order[..3].iter().map(|&token| p[token]).sum::<f64>() + 0.5 * p[order[3]];
    let top_p = kept / p.iter().sum::<f64>();
    assert_eq!(within(Sampling { top_p, ..hot }, &order[..4]), 4);
    assert_eq!(within(Sampling { top_p: 0.0, ..free }, &order[..1]), 1);
    // Frequencies of the most likely token, over all places: within 5 standard deviations.
    let p = at(1.5);
    let total: f64 = p.iter().sum();
    let many: Vec<Vec<u32>> = vec![prompts[0].clone(); 2000];
    let answers = generate::<f32>(None, 64, 4, &many, &free, 1);
    let hits = answers.iter().filter(|answer| answer[0] as usize == order[0]).count() as f64;
    let expected = p[order[0]] / total;
    let variance = 2000.0 * expected * (1.0 - expected);
    let chi_squared = (hits - 2000.0 * expected).powi(2) / variance;
    assert!(chi_squared < 25.0, "{hits} of 2000, p {expected}");
}

#[test]
fn stops_limits_and_streams() {
    let prompts = documents(&[4, 6, 2], 4);
    let free = generate::<bf16>(None, 2, 30, &prompts, &Sampling::GREEDY, 20);
    let stop = free[1][7];
    let mut generator =
        Generator::<bf16>::new(&Loaded::on_cpu(cpu(), weights(64, true)), None, 2, 30).unwrap();
    let mut heard = vec![Vec::new(); 3];
    let limits = Limits { max_new_tokens: 20, stop_ids: &[stop], stop: None };
    let answers = generator
        .generate(&prompts, &Sampling::GREEDY, &limits, &mut |row, token| heard[row].push(token))
        .unwrap();
    assert_eq!(answers, heard);
    for (free, answer) in free.iter().zip(&answers) {
        let end = free.iter().position(|&token| token == stop).unwrap_or(20);
        assert_eq!(answer, &free[..end]);
    }
    // The generator can be used again; nothing is left of the last time.
    let limits = Limits { max_new_tokens: 20, stop_ids: &[], stop: None };
    let again = generator.generate(&prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap();
    assert_eq!(again, free);
    let none = Limits { max_new_tokens: 0, ..limits };
    let nothing = generator.generate(&prompts, &Sampling::GREEDY, &none, &mut |_, _| ()).unwrap();
    assert_eq!(nothing, vec![Vec::<u32>::new(); 3]);
    assert!(
        generator.generate(&[], &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap().is_empty()
    );
}

#[test]
fn impossible_requests_are_errors() {
    let mut generator =
        Generator::<f32>::new(&Loaded::on_cpu(cpu(), weights(64, true)), None, 2, 30).unwrap();
    let limits = Limits { max_new_tokens: 20, stop_ids: &[], stop: None };
    let mut run = |prompts: &[Vec<u32>]| {
        generator.generate(prompts, &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap_err()
    };
    let error = run(&[vec![1; 10], vec![1; 11]]);
    assert_eq!(
        error.to_string(),
        "prompt 1 has 11 tokens and 20 new ones were asked for, the cache holds 30"
    );
    assert!(matches!(run(&[vec![1], vec![]]), GenerateError::EmptyPrompt { row: 1 }));
    assert!(matches!(run(&[vec![259]]), GenerateError::Engine(_)));
    // It still works after an error.
    let answers =
        generator.generate(&[vec![1]], &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap();
    assert_eq!(answers, generate::<f32>(None, 2, 30, &[vec![1]], &Sampling::GREEDY, 20));
    let weights = weights(64, true);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut adapter = adapter(&weights.config, 4, &[Linear::Down], 1);
        adapter.params[3] = bad;
        let mut generator =
            Generator::<f32>::new(&Loaded::on_cpu(cpu(), weights.clone()), Some(&adapter), 2, 30)
                .unwrap();
        let error =
            generator.generate(&[vec![5]], &Sampling::GREEDY, &limits, &mut |_, _| ()).unwrap_err();
        assert!(matches!(error, GenerateError::NonFinite { row: 0 }), "{error}");
    }
}
