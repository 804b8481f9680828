//! Generation, measured: tokens a second of reading prompts, and of answering.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::bench::{median, seconds_per_op};
use crate::Error;
use crate::device::cpu::GemmElement;
use crate::model::generate::{Generator, Limits, Sampling};
use crate::progress::{Progress, Report};
use crate::rng::Rng;
use crate::train::{Base, run_dir};

/// What is measured: `rows` prompts of `prompt` random tokens each, answered greedily with `new` tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateOptions {
    pub rows: usize,
    pub prompt: usize,
    /// At least two: the first token of an answer ends the reading of its prompt.
    pub new: usize,
    /// Measured rounds, after one that is not.
    pub rounds: usize,
}

/// What a benchmark of generation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GenerateBench {
    /// Prompt tokens a second, up to the first token of every answer: the median over the rounds.
    pub prefill_tok_s: f64,
    /// New tokens a second, of all rows together, while all rows answer: the median over the rounds.
    pub decode_tok_s: f64,
    /// The most memory that the process has had, in 10⁹ bytes; `None` where the system does not tell.
    pub rss_gb: Option<f64>,
    pub rows: usize,
    pub prompt: usize,
    pub new: usize,
    pub seconds_per_op: SecondsPerOp,
    pub compute_dtype: &'static str,
    /// How the base's linears are held.
    pub weights: String,
    pub device: String,
    pub threads: usize,
    pub dayrun_version: &'static str,
}

/// Mean seconds in each kind of op, and outside of them all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SecondsPerOp {
    /// Of reading all prompts, once.
    pub prefill: Map<String, Value>,
    /// Of one more token for every row.
    pub decode: Map<String, Value>,
}

/// Seconds per kind of op up to some moment, and that moment.
struct Mark {
    times: Vec<(&'static str, f64)>,
    at: Instant,
}

/// Reads and answers prompts of random tokens with the engine of `dayrun generate`, and times it.
pub fn generate<E: GemmElement>(
    base: &Base,
    options: &GenerateOptions,
    report: Report,
) -> Result<GenerateBench, Error> {
    let GenerateOptions { rows, prompt, new, rounds } = *options;
    let prompts = random_prompts(base.weights.config.vocab_size, rows, prompt);
    // Rows that are read first are ahead by a token a run when the last one begins.
    let model = base.model();
    let mut generator = Generator::<E>::new(&model, None, rows, prompt + new)?;
    let new = new + (rows * prompt).div_ceil(generator.tokens_per_run() - rows);
    generator = Generator::<E>::new(&model, None, rows, prompt + new)?;
    let mut rates = (Vec::new(), Vec::new());
    let (mut prefills, mut answers) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let start = mark(&generator);
        run(&mut generator, &prompts, 1)?;
        let read = mark(&generator);
        let heard = run(&mut generator, &prompts, new)?;
        let end = mark(&generator);
        report(Progress {
            stage: "measuring",
            done: round as u64 + 1,
            total: rounds as u64 + 1,
            unit: "rounds",
        });
        // The first round meets cold caches and sleeping threads.
        if round > 0 {
            let seconds = (read.at - start.at).as_secs_f64();
            rates.0.push((rows * prompt) as f64 / seconds);
            rates.1.push(decode_rate(&heard, rows, new));
            prefills.push((start, read));
            answers.push(end);
        }
    }
    Ok(GenerateBench {
        prefill_tok_s: median(&rates.0),
        decode_tok_s: median(&rates.1),
        rss_gb: run_dir::peak_rss_bytes().map(|bytes| bytes as f64 / 1e9),
        rows,
        prompt,
        new: options.new,
        seconds_per_op: split(&prefills, &answers, new),
        compute_dtype: E::NAME,
        weights: base.weights.held(),
        device: base.device.name(),
        threads: base.cpu.threads(),
        dayrun_version: env!("CARGO_PKG_VERSION"),
    })
}

/// Prompts that do not begin alike, so that no row is spared the reading.
fn random_prompts(vocab: usize, rows: usize, prompt: usize) -> Vec<Vec<u32>> {
    let rng = Rng::new(&[1]);
    let token = |row: usize, i: usize| match i {
        0 => (row % vocab) as u32,
        _ => rng.below((row * prompt + i) as u64, vocab as u64) as u32,
    };
    (0..rows).map(|row| (0..prompt).map(|i| token(row, i)).collect()).collect()
}

/// Answers all prompts with `new` tokens; gives the row and the moment of each.
fn run<E: GemmElement>(
    generator: &mut Generator<E>,
    prompts: &[Vec<u32>],
    new: usize,
) -> Result<Vec<(usize, Instant)>, Error> {
    let limits = Limits { max_new_tokens: new, stop_ids: &[], stop: None };
    let mut heard = Vec::with_capacity(prompts.len() * new);
    let mut on_token = |row: usize, _: u32| heard.push((row, Instant::now()));
    generator.generate(prompts, &Sampling::GREEDY, &limits, &mut on_token)?;
    Ok(heard)
}

/// Tokens a second from when every row has begun until the first is done. Rows whose prompts were read
/// earlier are some tokens ahead.
fn decode_rate(heard: &[(usize, Instant)], rows: usize, new: usize) -> f64 {
    let mut counts = vec![0; rows];
    let (mut begun, mut first) = (0, 0);
    for (i, (row, _)) in heard.iter().enumerate() {
        counts[*row] += 1;
        if counts[*row] == 1 {
            begun += 1;
            first = i;
        }
        if counts[*row] == new {
            if begun < rows {
                break;
            }
            // The tokens of one step come together: counted are whole steps.
            let (steps, seconds) = ((i - first) / rows, heard[first + (i - first) / rows * rows].1);
            return (steps * rows) as f64 / (seconds - heard[first].1).as_secs_f64();
        }
    }
    f64::NAN
}

fn mark<E: GemmElement>(generator: &Generator<E>) -> Mark {
    Mark { times: generator.times().to_vec(), at: Instant::now() }
}

/// The mean reading, and the mean step of answering: what whole answers took beyond the reading.
fn split(prefills: &[(Mark, Mark)], answers: &[Mark], new: usize) -> SecondsPerOp {
    let empty = || (Vec::new(), Vec::new(), Vec::new());
    let (mut begin, mut end, mut wall) = empty();
    let (mut more_begin, mut more_end, mut more_wall) = empty();
    for ((start, read), answered) in prefills.iter().zip(answers) {
        let reading = (read.at - start.at).as_secs_f64();
        wall.push(reading);
        more_wall.push((answered.at - read.at).as_secs_f64() - reading);
        for (i, (name, seconds)) in read.times.iter().enumerate() {
            let before = start.times.get(i).map_or(0.0, |(_, seconds)| *seconds);
            let after = answered.times.get(i).map_or(0.0, |(_, seconds)| *seconds);
            add(&mut begin, i, name, before);
            add(&mut end, i, name, *seconds);
            add(&mut more_begin, i, name, 2.0 * seconds - before);
            add(&mut more_end, i, name, after);
        }
    }
    let steps = (new - 1) as f64;
    let mut decode = seconds_per_op(&more_begin, &more_end, &more_wall);
    for value in decode.values_mut() {
        *value = (value.as_f64().unwrap_or(f64::NAN) / steps).into();
    }
    SecondsPerOp { prefill: seconds_per_op(&begin, &end, &wall), decode }
}

fn add(sums: &mut Vec<(&'static str, f64)>, i: usize, name: &'static str, seconds: f64) {
    match sums.get_mut(i) {
        Some((_, sum)) => *sum += seconds,
        None => sums.push((name, seconds)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn decoding_is_timed_while_all_rows_answer() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // Row 0 is two tokens ahead; then both have one every 10 ms.
        let mut heard = vec![(0, at(0)), (0, at(100)), (0, at(200)), (1, at(201))];
        for step in 1..=3 {
            heard.extend([(0, at(200 + 10 * step)), (1, at(201 + 10 * step))]);
        }
        // Row 0 has its sixth at 230: two whole steps of two tokens in 20 ms.
        let rate = decode_rate(&heard, 2, 6);
        assert!((rate - 200.0).abs() < 1e-6, "{rate}");
        assert!(decode_rate(&heard, 3, 6).is_nan(), "row 2 has not begun");
        // Alone, every token after the first counts.
        let alone: Vec<_> = (0..5).map(|i| (0, at(50 * i))).collect();
        assert!((decode_rate(&alone, 1, 5) - 20.0).abs() < 1e-6);
    }

    #[test]
    fn prompts_begin_differently() {
        let prompts = random_prompts(259, 32, 7);
        assert!(prompts.iter().all(|p| p.len() == 7 && p.iter().all(|&token| token < 259)));
        assert!((1..32).all(|i| prompts[i][0] != prompts[i - 1][0]));
        assert_ne!(prompts[0][1..], prompts[1][1..]);
    }

    #[test]
    fn a_step_is_what_answers_take_beyond_reading() {
        let at = Instant::now();
        let mark = |seconds: f64, op: f64| Mark {
            times: vec![("op", op)],
            at: at + Duration::from_secs_f64(seconds),
        };
        let split = split(&[(mark(1.0, 0.5), mark(3.0, 2.0))], &[mark(9.0, 5.5)], 5);
        assert_eq!(split.prefill["op"], 1.5);
        assert_eq!(split.prefill["outside ops"], 0.5);
        // 6 s and 3.5 s of op, without the reading's 2 s and 1.5 s, in four steps.
        assert_eq!(split.decode["op"], 0.5);
        assert_eq!(split.decode["outside ops"], 0.5);
    }
}
