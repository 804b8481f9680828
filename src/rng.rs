//! Random numbers by counter: the value at a place is a function of (key, place), so order of use,
//! threads and resumption never change it.

/// A stream of random numbers named by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    key: u64,
}

impl Rng {
    /// A stream of its own for each list of parts: `[seed, epoch]`, `[seed, row]`.
    pub fn new(parts: &[u64]) -> Self {
        let key = parts.iter().fold(0x243f_6a88_85a3_08d3, |key, &part| mix(key ^ mix(part)));
        Self { key }
    }

    /// A stream named by text within this one (a module's path).
    pub fn named(self, name: &str) -> Self {
        let key = name.bytes().fold(self.key, |key, byte| mix(key ^ u64::from(byte)));
        Self { key: mix(key ^ name.len() as u64) }
    }

    /// The 64 bits at a place.
    pub fn bits(self, place: u64) -> u64 {
        mix(self.key.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn unit(self, place: u64) -> f64 {
        (self.bits(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n (n > 0), by multiplication: biased by less than n / 2^64.
    pub fn below(self, place: u64, n: u64) -> u64 {
        ((u128::from(self.bits(place)) * u128::from(n)) >> 64) as u64
    }

    /// Shuffles in place (Fisher and Yates, from the end).
    pub fn shuffle<T>(self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), after one step of its counter.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_is_a_permutation_and_depends_on_the_key() {
        let shuffled = |key| {
            let mut items: Vec<u32> = (0..100).collect();
            Rng::new(&[key]).shuffle(&mut items);
            items
        };
        let mut sorted = shuffled(1);
        assert_ne!(sorted, shuffled(2));
        assert_eq!(sorted, shuffled(1));
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
    }

    #[test]
    fn unit_is_uniform() {
        let rng = Rng::new(&[7]).named("a");
        let mut counts = [0u32; 10];
        for place in 0..100_000 {
            counts[(rng.unit(place) * 10.0) as usize] += 1;
        }
        // Chi-squared with 9 degrees of freedom: 27.9 is the 0.1 % point.
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi < 27.9, "{counts:?}");
    }

    #[test]
    fn parts_and_names_give_streams_of_their_own() {
        let base = Rng::new(&[1, 2]);
        let others = [Rng::new(&[2, 1]), Rng::new(&[1]), base.named("q"), base.named("qq")];
        assert!(others.iter().all(|other| other.bits(0) != base.bits(0)));
    }
}
