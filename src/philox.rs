//! Philox4x32-10: random words by counter, the same on the CPU and in kernels (kernels/common/philox.cuh).
//!
//! Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". A word is a function of key and counter
//! alone, so masks are made anew in the backward pass instead of kept, and no order of threads, no resumption
//! and no packing of other rows changes one.

/// When in a run: what a generator is keyed by, besides the place in a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    pub seed: u64,
    /// 1 for the first.
    pub step: u32,
    /// 0 for a step's first.
    pub micro_batch: u32,
}

impl Moment {
    /// Four words: number `index` of stream `stream`.
    #[inline(always)]
    pub fn words(self, stream: u32, index: u32) -> [u32; 4] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        philox(key, [index, stream, self.step, self.micro_batch])
    }
}

#[inline(always)]
fn philox(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = product(0xd251_1f53, counter[0]);
        let (high1, low1) = product(0xcd9e_8d57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The authors' own vectors (Random123, kat_vectors).
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        let ones = philox([u32::MAX; 2], [u32::MAX; 4]);
        assert_eq!(ones, [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        let pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
        let words = philox([0xa4093822, 0x299f31d0], pi);
        assert_eq!(words, [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
    }

    #[test]
    fn every_part_of_a_moment_counts() {
        let moment = Moment { seed: 1 << 40, step: 3, micro_batch: 1 };
        let others = [
            Moment { seed: 1 << 41, ..moment }.words(5, 7),
            Moment { step: 4, ..moment }.words(5, 7),
            Moment { micro_batch: 2, ..moment }.words(5, 7),
            moment.words(6, 7),
            moment.words(5, 8),
        ];
        assert!(others.iter().all(|other| *other != moment.words(5, 7)));
    }
}
