//! Generation: batched decoding over a KV cache, greedy or sampled.
//!
//! Rows share every run: a row that has finished makes room for the next prompt at once, and
//! prompts are read in pieces beside the rows that already decode. What all prompts begin with (a
//! system turn) is read once. A row's tokens do not depend on what else is in the batch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use super::engine::{Engine, EngineError, Inputs, Noise};
use super::kv_cache::KvCache;
use super::llama::Kind;
use super::loaded::Loaded;
use crate::adapter::Adapter;
use crate::device::cpu::GemmElement;
use crate::device::memory::Placement;
use crate::rng::Rng;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0: greedy (ties go to the lower id), and the rest is ignored.
    pub temperature: f64,
    /// Only the k most likely tokens; 0: all.
    pub top_k: usize,
    /// Only the smallest set of tokens with this probability together; 1: all.
    pub top_p: f64,
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Sampling = Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
}

/// When a row ends.
#[derive(Clone, Copy, Debug)]
pub struct Limits<'a> {
    pub max_new_tokens: usize,
    /// Tokens that end a row; the stop token itself is not part of the answer.
    pub stop_ids: &'a [u32],
    /// Set to give up, with [`GenerateError::Stopped`], before the next run.
    pub stop: Option<&'a AtomicBool>,
}

/// Generation failed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("prompt {row} is empty")]
    EmptyPrompt { row: usize },
    #[error(
        "prompt {row} has {tokens} tokens and {max_new_tokens} new ones were asked for, \
         the cache holds {capacity}"
    )]
    TooLong { row: usize, tokens: usize, max_new_tokens: usize, capacity: usize },
    #[error("stopped before all answers were complete")]
    Stopped,
    #[error("the logits of row {row} hold a NaN")]
    NonFinite { row: usize },
}

/// A model that generates, `rows` sequences at a time.
pub struct Generator<E> {
    engine: Engine<E>,
    cache: KvCache<E>,
}

/// A sequence in progress.
struct Row {
    prompt: usize,
    /// Tokens still to be read: the prompt's rest, or the last one generated.
    pending: VecDeque<u32>,
}

impl<E: GemmElement> Generator<E> {
    /// Plans memory for `rows` sequences of at most `capacity` tokens (prompt and answer).
    pub fn new(
        model: &Loaded,
        adapter: Option<&Adapter>,
        rows: usize,
        capacity: usize,
    ) -> Result<Self, EngineError> {
        /// Prompt tokens read in one run, beside a token of each decoding row: enough that decoding a
        /// weight for them is a small part of the run, few enough that their activations stay in cache.
        const PREFILL: usize = 512;
        let cache = KvCache::new(model, rows, capacity)?;
        let kind = Kind::Generate { tokens: rows + PREFILL, rows };
        let engine = Engine::new(model, adapter, kind, Placement::Packed)?;
        Ok(Self { engine, cache })
    }

    /// The most tokens, of prompts and answers together, that go through the model at once.
    pub fn tokens_per_run(&self) -> usize {
        self.engine.capacity()
    }

    /// Seconds spent in each kind of op so far.
    pub fn times(&self) -> &[(&'static str, f64)] {
        self.engine.times()
    }

    /// Continues every prompt. `on_token(prompt, token)` hears each new token at once.
    pub fn generate(
        &mut self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        limits: &Limits<'_>,
        on_token: &mut dyn FnMut(usize, u32),
    ) -> Result<Vec<Vec<u32>>, GenerateError> {
        self.check(prompts, limits)?;
        let mut answers: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
        if limits.max_new_tokens == 0 {
            return Ok(answers);
        }
        let mut waiting = 0..prompts.len();
        let mut rows: Vec<Option<Row>> = (0..self.cache.rows()).map(|_| None).collect();
        let shared = self.read_shared(prompts, &mut rows)?;
        loop {
            for (slot, row) in rows.iter_mut().enumerate() {
                if row.is_none()
                    && let Some(prompt) = waiting.next()
                {
                    self.cache.truncate(slot, shared as u32);
                    let pending = prompts[prompt][shared..].iter().copied().collect();
                    *row = Some(Row { prompt, pending });
                }
            }
            if rows.iter().all(Option::is_none) {
                return Ok(answers);
            }
            if limits.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                return Err(GenerateError::Stopped);
            }
            let ready = self.run(&mut rows)?;
            let vocab = self.engine.weights().config.vocab_size;
            let logits = self.engine.logits();
            for (&slot, logits) in ready.iter().zip(logits.chunks_exact(vocab)) {
                let Some(row) = &mut rows[slot] else { continue };
                let answer = &mut answers[row.prompt];
                let place = ((row.prompt as u64) << 32) | answer.len() as u64;
                let token = sample(logits, sampling, place)
                    .ok_or(GenerateError::NonFinite { row: row.prompt })?;
                let stop = limits.stop_ids.contains(&token);
                if !stop {
                    answer.push(token);
                    on_token(row.prompt, token);
                    row.pending.push_back(token);
                }
                if stop || answer.len() == limits.max_new_tokens {
                    rows[slot] = None;
                }
            }
        }
    }

    /// Reads what all prompts begin with into every row, and gives its length: at least one token
    /// of each prompt is left.
    fn read_shared(
        &mut self,
        prompts: &[Vec<u32>],
        rows: &mut [Option<Row>],
    ) -> Result<usize, EngineError> {
        for slot in 0..rows.len() {
            self.cache.truncate(slot, 0);
        }
        let [first, rest @ ..] = prompts else { return Ok(0) };
        let most = prompts.iter().map(Vec::len).min().unwrap_or(0).saturating_sub(1);
        let same = |i: &usize| rest.iter().all(|prompt| prompt[*i] == first[*i]);
        let shared = (0..most).take_while(same).count();
        if rest.is_empty() || shared == 0 || rows.is_empty() {
            return Ok(0);
        }
        rows[0] = Some(Row { prompt: 0, pending: first[..shared].iter().copied().collect() });
        while self.run(rows)?.is_empty() {}
        rows[0] = None;
        self.cache.share_first_row()?;
        Ok(shared)
    }

    fn check(&self, prompts: &[Vec<u32>], limits: &Limits<'_>) -> Result<(), GenerateError> {
        let capacity = self.cache.capacity();
        for (row, prompt) in prompts.iter().enumerate() {
            let (tokens, max_new_tokens) = (prompt.len(), limits.max_new_tokens);
            if tokens == 0 {
                return Err(GenerateError::EmptyPrompt { row });
            }
            if tokens + max_new_tokens > capacity {
                return Err(GenerateError::TooLong { row, tokens, max_new_tokens, capacity });
            }
        }
        Ok(())
    }

    /// One run over what the rows have pending, as far as it fits. Returns the slots whose next
    /// token can be chosen, in the order of the logits.
    fn run(&mut self, rows: &mut [Option<Row>]) -> Result<Vec<usize>, EngineError> {
        let mut room = self.engine.capacity();
        let mut counts = vec![0; rows.len()];
        // Rows that decode go first, so that a long prompt never holds them up.
        for decoding in [true, false] {
            for (count, row) in counts.iter_mut().zip(rows.iter()) {
                let pending = row.as_ref().map_or(0, |row| row.pending.len());
                if (pending == 1) == decoding {
                    *count = pending.min(room);
                    room -= *count;
                }
            }
        }
        let (mut tokens, mut position_ids, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cu_seqlens, mut ready) = (vec![0], Vec::new());
        for (slot, row) in rows.iter_mut().enumerate() {
            if let Some(row) = row {
                let start = self.cache.lens()[slot];
                position_ids.extend(start..start + counts[slot] as u32);
                tokens.extend(row.pending.drain(..counts[slot]));
                if row.pending.is_empty() && counts[slot] > 0 {
                    positions.push(tokens.len() as u32 - 1);
                    ready.push(slot);
                }
            }
            cu_seqlens.push(tokens.len() as u32);
        }
        let inputs = Inputs {
            tokens: &tokens,
            position_ids: &position_ids,
            cu_seqlens: &cu_seqlens,
            positions: &positions,
            targets: &[],
            loss_scale: 0.0,
            noise: Noise::default(),
        };
        self.engine.execute(&inputs, Some(&mut self.cache))?;
        self.cache.advance(&cu_seqlens);
        Ok(ready)
    }
}

/// The largest logit's place, of equal ones the first; `None` when one is NaN.
fn most_likely(logits: &[f32]) -> Option<usize> {
    /// A block that stays in cache between its two looks; its largest is found lane by lane.
    const BLOCK: usize = 1024;
    let (mut best, mut largest) = (0, f32::NEG_INFINITY);
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; 16];
        let mut nan = false;
        for sixteen in block.chunks(16) {
            for (lane, &x) in lanes.iter_mut().zip(sixteen) {
                nan |= x.is_nan();
                *lane = if x > *lane { x } else { *lane };
            }
        }
        if nan {
            return None;
        }
        let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if most > largest {
            largest = most;
            best = i * BLOCK + block.iter().position(|&x| x == most).unwrap_or(0);
        }
    }
    Some(best)
}

/// Chooses a token; `None` when a logit is NaN.
fn sample(logits: &[f32], sampling: &Sampling, place: u64) -> Option<u32> {
    let best = most_likely(logits)?;
    if sampling.temperature <= 0.0 || sampling.top_k == 1 {
        return Some(best as u32);
    }
    let max = f64::from(logits[best]);
    let mut weights: Vec<(u32, f64)> = logits
        .iter()
        .enumerate()
        .map(|(i, &x)| (i as u32, ((f64::from(x) - max) / sampling.temperature).exp()))
        .collect();
    // Most likely first, equal ones by id, so that the cut is the same everywhere.
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        weights.truncate(sampling.top_k);
    }
    let total: f64 = weights.iter().map(|(_, w)| w).sum();
    let mut kept = 0.0;
    let mut count = 0;
    for (_, w) in &weights {
        kept += w;
        count += 1;
        if kept >= sampling.top_p * total {
            break;
        }
    }
    let mut left = Rng::new(&[sampling.seed]).unit(place) * kept;
    for &(token, w) in &weights[..count] {
        left -= w;
        if left < 0.0 {
            return Some(token);
        }
    }
    weights[..count].last().map(|&(token, _)| token)
}

#[cfg(test)]
mod tests {
    use super::most_likely;

    #[test]
    fn the_first_of_the_largest_logits() {
        for len in [1usize, 5, 16, 1000, 1024, 1025, 5000] {
            for place in [0, len / 3, len - 1] {
                let mut logits: Vec<f32> = (0..len).map(|i| -((i % 7) as f32) - 1.0).collect();
                logits[place] = -0.5;
                assert_eq!(most_likely(&logits), Some(place), "{place} of {len}");
                logits[len - 1] = -0.5;
                assert_eq!(most_likely(&logits), Some(place), "{place} and the last of {len}");
                logits[len / 2] = f32::NAN;
                assert_eq!(most_likely(&logits), None, "a NaN among {len}");
            }
            assert_eq!(most_likely(&vec![f32::NEG_INFINITY; len]), Some(0));
        }
    }
}
