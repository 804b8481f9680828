//! Counter-based random numbers: a value depends on its key and its place, never on how many were
//! drawn before it, so any order of work gives the same numbers.
//!
//! The mixing function is SplitMix64's (Steele, Lea, Flood 2014, "Fast splittable pseudorandom
//! number generators", fig. 17), applied to the key's state plus `place` times the golden gamma.

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function.
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of random numbers named by a key, such as (seed, epoch, purpose).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// The stream of `key`; streams of different keys are unrelated.
    pub fn new(key: &[u64]) -> Self {
        // Not by xor of two mixed words: equal words would cancel out.
        let step =
            |state: u64, &word: &u64| mix(mix(state.wrapping_add(GOLDEN_GAMMA)).wrapping_add(word));
        let state = key.iter().fold(key.len() as u64, step);
        Self { state: mix(state) }
    }

    /// The 64 random bits at `place`.
    pub fn at(&self, place: u64) -> u64 {
        mix(self.state.wrapping_add(place.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA)))
    }

    /// A number in `0..bound` at `place` (`bound` > 0), by the high half of a 128-bit product; the
    /// bias is below `bound` / 2^64.
    pub fn below(&self, place: u64, bound: u64) -> u64 {
        ((u128::from(self.at(place)) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `[0, 1)` at `place`, a multiple of 2^-53.
    pub fn unit(&self, place: u64) -> f64 {
        (self.at(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Fisher and Yates' shuffle.
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_splitmix64() {
        // The first outputs of SplitMix64 seeded with 1234567, as published with the algorithm.
        let rng = Rng { state: 1_234_567 };
        let want = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        for (place, want) in want.into_iter().enumerate() {
            assert_eq!(rng.at(place as u64), want);
        }
    }

    #[test]
    fn keys_and_places_matter() {
        let mut seen = std::collections::HashSet::new();
        for key in [&[1u64][..], &[1, 0], &[0, 1], &[2], &[]] {
            for place in 0..100 {
                assert!(seen.insert(Rng::new(key).at(place)));
            }
        }
    }

    #[test]
    fn shuffles_are_uniform() {
        // Each of the 24 orders of four items, over many keys: 1000 expected, sigma 31.
        let mut counts = std::collections::HashMap::new();
        for seed in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            Rng::new(&[seed, 7]).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|&n: &i32| (850..=1150).contains(&n)), "{counts:?}");
    }

    #[test]
    fn units_lie_in_range() {
        let rng = Rng::new(&[3]);
        let mean = (0..10_000).map(|i| rng.unit(i)).sum::<f64>() / 10_000.0;
        assert!((0..10_000).all(|i| (0.0..1.0).contains(&rng.unit(i))));
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
