//! Shared by the test binaries: tolerances, comparisons, seeded inputs, devices.

// Every binary that includes this uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod attention;
pub mod close;
pub mod golden;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod inputs;
pub mod runs;
pub mod tol;

use std::sync::OnceLock;

use dayrun::device::cpu::{Cpu, Level};

pub use close::{assert_close, assert_same_bits, compare};
pub use inputs::{DType, Rng, cases, cast, nan, pitched, size, to_f64};
pub use tol::Tol;

/// One device for each instruction set that this machine has, with one thread, with two and with four.
pub struct Pair {
    pub one: Cpu,
    pub two: Cpu,
    pub four: Cpu,
}

impl Pair {
    /// Runs `f` on one thread, on two and on four, and panics unless all give the same bits.
    #[track_caller]
    pub fn same_bits<T: bytemuck::Pod + std::fmt::Debug>(
        &self,
        name: &str,
        f: impl Fn(&Cpu) -> Vec<T>,
    ) -> Vec<T> {
        let (one, two) = (f(&self.one), f(&self.two));
        assert_same_bits(&format!("{name} on {}, 1 and 2 threads", self.one.name()), &one, &two);
        let four = f(&self.four);
        assert_same_bits(&format!("{name} on {}, 1 and 4 threads", self.one.name()), &one, &four);
        two
    }
}

/// Every available instruction set, with one, two and four threads; made once per test binary.
pub fn pairs() -> &'static [Pair] {
    static PAIRS: OnceLock<Vec<Pair>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        Level::available()
            .map(|level| {
                let [one, two, four] = [1, 2, 4].map(|threads| Cpu::with_level(level, threads));
                Pair { one, two, four }
            })
            .collect()
    })
}

/// The devices of [`pairs`] with one thread and with two, one by one.
pub fn devices() -> impl Iterator<Item = &'static Cpu> {
    pairs().iter().flat_map(|pair| [&pair.one, &pair.two])
}

/// The gradient of `f` at `x`, by central differences with steps h = 2^-10 and h/2, extrapolated
/// so that the error is of order h^4. Compare with [`Tol::finite_difference`].
pub fn finite_difference(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    const H: f64 = 1.0 / 1024.0;
    let n = x.len();
    let mut x = x.to_vec();
    let mut central = |i: usize, h: f64| {
        let middle = x[i];
        x[i] = middle + h;
        let above = f(&x);
        x[i] = middle - h;
        let below = f(&x);
        x[i] = middle;
        (above - below) / (2.0 * h)
    };
    (0..n).map(|i| (4.0 * central(i, H / 2.0) - central(i, H)) / 3.0).collect()
}

/// Σ a_i·b_i in f64.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Σ |a_i|·|b_i|: the magnitude bound of [`dot`].
pub fn abs_dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

/// Σ_i |a[t, i]|·|b[o, i]| for every row of `a` `[m, k]` and of `b` `[n, k]`: the magnitude bounds
/// of a·bᵀ.
pub fn abs_product(m: usize, k: usize, n: usize, a: &[f64], b: &[f64]) -> Vec<f64> {
    (0..m * n)
        .map(|i| abs_dot(&a[i / n * k..(i / n + 1) * k], &b[i % n * k..(i % n + 1) * k]))
        .collect()
}
