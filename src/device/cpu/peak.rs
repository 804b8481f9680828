//! What the machine's multipliers can do: the yardstick that a benchmark's rate is held against.

use std::time::{Duration, Instant};

use super::simd::multiply_chains;
use super::{Cpu, Level};

/// Runs of one measurement, and how long each is.
const RUNS: usize = 10;
const RUN: Duration = Duration::from_millis(200);
/// Rounds of all chains between two looks at the clock: some 20 µs.
const ROUNDS: usize = 2048;

/// FLOP/s of the level's own widest product of bf16 (tiles, dot products, else f32 multiply-adds) on all
/// threads at once: 24 independent chains a thread (12 where there are but 16 registers, 4 of tiles), best
/// of ten runs of 0.2 s. A share of it is on `amx_bf16` one of the tiles' peak, several times that of
/// `avx512bf16`.
///
/// The best run and not the median: on a shared machine it is the one least disturbed.
pub fn bf16_flops_per_second(cpu: &Cpu) -> f64 {
    (0..RUNS).map(|_| one_run(cpu)).fold(0.0, f64::max)
}

fn one_run(cpu: &Cpu) -> f64 {
    let per_thread = std::sync::Mutex::new(0.0);
    cpu.broadcast(|| {
        let rate = thread_rate(cpu.level);
        *per_thread.lock().expect("no thread has panicked") += rate;
    });
    per_thread.into_inner().expect("no thread has panicked")
}

fn thread_rate(level: Level) -> f64 {
    let start = Instant::now();
    let mut products = 0;
    loop {
        products += multiply_chains(level, ROUNDS);
        let elapsed = start.elapsed();
        if elapsed >= RUN {
            return 2.0 * products as f64 / elapsed.as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_each_level_multiplies() {
        for level in Level::available() {
            // Chains times lanes; a dot product of bf16 does two in a lane.
            let round = match level.name() {
                "amx_bf16" => 4 * 16 * 16 * 32,
                "avx512bf16" => 24 * 16 * 2,
                "avx512f" => 24 * 16,
                "avx2" => 12 * 8,
                _ => 12 * 4,
            };
            for rounds in [1, 7] {
                assert_eq!(multiply_chains(level, rounds), rounds * round, "{level:?}");
            }
        }
    }
}
