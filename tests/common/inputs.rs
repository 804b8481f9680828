//! Seeded inputs that are exact in bf16, and the sizes that find mistakes.

use dayrun::device::cpu::Element;
use proptest::prelude::*;

/// The formats that a tolerance can speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    Bf16,
    F32,
    F64,
}

impl DType {
    /// The dtype of an activation type.
    pub fn of<E: Element>() -> Self {
        match E::NAME {
            "bf16" => DType::Bf16,
            "f32" => DType::F32,
            name => panic!("no dtype for {name}"),
        }
    }

    /// 2^-p for p bits of precision: the largest relative error of one rounding to nearest.
    pub fn unit_roundoff(self) -> f64 {
        match self {
            DType::Bf16 => 2f64.powi(-8),
            DType::F32 => 2f64.powi(-24),
            DType::F64 => 2f64.powi(-53),
        }
    }
}

/// A small random generator (SplitMix64): the same seed gives the same inputs everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform in 0 .. n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % n as u64) as usize
    }

    /// `n` normal values of standard deviation `scale`, each exact in bf16 (so in f32 as well).
    pub fn values(&mut self, n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|_| half::bf16::from_f64(self.normal() * scale).to_f64()).collect()
    }

    /// `n` values around 1, exact in bf16: norm weights.
    pub fn around_one(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| half::bf16::from_f64(1.0 + 0.25 * self.normal()).to_f64()).collect()
    }

    /// `n` indices in 0 .. `limit`, with the first and the last one present where they fit.
    pub fn indices(&mut self, n: usize, limit: usize) -> Vec<u32> {
        let mut indices: Vec<u32> = (0..n).map(|_| self.below(limit) as u32).collect();
        if let Some(last) = indices.last_mut() {
            *last = (limit - 1) as u32;
        }
        if let Some(first) = indices.first_mut().filter(|_| n > 1) {
            *first = 0;
        }
        indices
    }
}

/// Values in an element type. They must be exact there (or NaN), or the reference saw other inputs.
#[track_caller]
pub fn cast<E: Element>(values: &[f64]) -> Vec<E> {
    let cast: Vec<E> = values.iter().map(|&v| E::from_f32(v as f32)).collect();
    assert!(
        cast.iter().zip(values).all(|(c, v)| f64::from(c.to_f32()) == *v || v.is_nan()),
        "an input is not exact in {}",
        E::NAME
    );
    cast
}

/// Element values as f64: exact.
pub fn to_f64<E: Element>(values: &[E]) -> Vec<f64> {
    values.iter().map(|v| f64::from(v.to_f32())).collect()
}

/// A buffer to be overwritten: full of NaN, so that an element that was left out shows.
pub fn nan<E: Element>(n: usize) -> Vec<E> {
    vec![E::from_f32(f32::NAN); n]
}

/// Rows of `cols` values at a pitch of `ld`, NaN between them: reading past a row shows. The last
/// row ends with its values.
pub fn pitched<E: Element>(values: &[f64], cols: usize, ld: usize) -> Vec<E> {
    let values = cast::<E>(values);
    let rows = values.len().checked_div(cols).unwrap_or(0);
    let mut out = nan::<E>(if rows == 0 { 0 } else { (rows - 1) * ld + cols });
    for (out, row) in out.chunks_mut(ld.max(1)).zip(values.chunks_exact(cols.max(1))) {
        out[..cols].copy_from_slice(row);
    }
    out
}

/// Sizes up to `max`: 1, powers of two and their neighbours, and anything between.
pub fn size(max: usize) -> impl Strategy<Value = usize> {
    let around = prop::sample::select(vec![1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129])
        .prop_map(move |n: usize| n.min(max));
    prop_oneof![around, 1..=max]
}

/// Property tests of the same cases on every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES`
/// explore others.
pub fn cases(n: u32) -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = prop::test_runner::RngSeed::Fixed(1);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = n;
    }
    config.failure_persistence = None;
    config
}
