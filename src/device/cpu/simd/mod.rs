//! Instruction sets: which one is used, and the shared primitives written for each.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512bf16;
mod chains;
pub mod math;
pub mod panel;
mod plain;
pub mod prefetch;

pub use chains::{CHAINS, multiply_chains};
pub use panel::{GemmElement, MR, NR, Nf4Codes, Segment, panel_len, rows_fit};

/// An instruction set of the CPU backend that this machine has, chosen once when the device is made.
///
/// Safe code gets one only from here, after asking the CPU: having a `Level` proves that its
/// instructions may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    /// AVX-512 F/BW/VL/DQ/VBMI with BF16 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
}

/// `DAYRUN_SIMD` names no instruction set that this machine has.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("choosing the instruction set: this machine has none of the name {name:?} (DAYRUN_SIMD)")]
pub struct UnknownLevel {
    /// The name that was asked for.
    pub name: String,
}

impl UnknownLevel {
    /// The names that would do.
    pub fn hint(&self) -> Option<String> {
        let names: Vec<_> = Level::available().map(Level::name).collect();
        Some(format!("set DAYRUN_SIMD to {}, or leave it unset for the best", names.join(" or ")))
    }
}

impl Level {
    /// Plain Rust, on any target.
    pub const PORTABLE: Level = Level(Set::Portable);

    /// Every instruction set that this machine has, best first.
    pub fn available() -> impl Iterator<Item = Level> {
        #[cfg(target_arch = "x86_64")]
        let best = has_avx512bf16().then_some(Level(Set::Avx512Bf16));
        #[cfg(not(target_arch = "x86_64"))]
        let best = None;
        best.into_iter().chain([Level::PORTABLE])
    }

    /// The best one that this machine has.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Level::PORTABLE)
    }

    /// The one of a given name, if this machine has it.
    pub fn from_name(name: &str) -> Result<Self, UnknownLevel> {
        let named = Self::available().find(|level| level.name() == name);
        named.ok_or_else(|| UnknownLevel { name: name.into() })
    }

    /// The one that the environment variable `DAYRUN_SIMD` names; where it is unset, the best.
    pub fn from_env() -> Result<Self, UnknownLevel> {
        match std::env::var_os("DAYRUN_SIMD") {
            Some(name) => Self::from_name(&name.to_string_lossy()),
            None => Ok(Self::detect()),
        }
    }

    /// The name that `DAYRUN_SIMD` takes: `portable`, `avx512bf16`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Whether it is AVX-512 with BF16 dot products, which this machine then has.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn is_avx512bf16(self) -> bool {
        self.0 == Set::Avx512Bf16
    }

    /// Runs a short plain Rust loop compiled for this instruction set.
    ///
    /// The closure is called in two places (for each level once), so the compiler inlines it only
    /// while it is small; one that is not inlined stays baseline code: right, but slow. For
    /// anything longer than a few lines use [`Level::run`]. Call either once per block of rows,
    /// not once per element.
    #[inline(always)]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        match self.0 {
            Set::Portable => f(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this level is only made where the CPU has these features.
            Set::Avx512Bf16 => unsafe { vectorize_avx512(f) },
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline(always)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this level is only made where the CPU has these features.
            Set::Avx512Bf16 => unsafe { run_avx512(kernel) },
        }
    }
}

/// A block of work in plain Rust, with its arguments as fields, compiled for each instruction set.
///
/// A trait and not a closure, because only a function can be marked `#[inline(always)]`.
pub trait Kernel {
    type Output;

    /// Does the work. Every implementation is marked `#[inline(always)]`, and so is every
    /// function it calls in its loops.
    fn run(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
fn has_avx512bf16() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn vectorize_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn a_level_is_found_by_its_name_or_refused() {
        for level in Level::available() {
            assert_eq!(Level::from_name(level.name()), Ok(level));
        }
        let error = Level::from_name("avx512bf61").unwrap_err();
        assert!(error.to_string().contains("\"avx512bf61\""), "{error}");
        assert!(error.hint().unwrap().contains("portable"));
    }

    /// Numbers whose products wrap to something small must not pass for a short slice.
    #[test]
    fn lengths_that_wrap_are_refused() {
        let refused = |f: &dyn Fn()| {
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
            let message = unwound.expect_err("must panic");
            let message = message.downcast_ref::<String>().cloned().unwrap_or_else(|| {
                message.downcast_ref::<&str>().map_or(String::new(), |m| m.to_string())
            });
            assert!(message.contains("too"), "{message}");
        };
        fn all<E: GemmElement>(refused: &dyn Fn(&dyn Fn())) {
            for level in Level::available() {
                for huge in [1 << 58, 1 << 59, 1 << 63, usize::MAX] {
                    let none: &mut [E] = &mut [];
                    let none = std::cell::RefCell::new(none);
                    let panel = || none.borrow_mut();
                    refused(&|| E::pack_nt(level, &[], huge, 0, 0, huge, &mut panel()));
                    refused(&|| E::pack_nt(level, &[], huge, 0, 32, 64, &mut panel()));
                    refused(&|| E::pack_nn(level, &[], 64, huge, 0, 32, &mut panel()));
                    refused(&|| E::pack_nn(level, &[], huge, 2, huge, 32, &mut panel()));
                    refused(&|| E::pack_nt_bf16(level, &[], huge, 0, 0, huge, &mut panel()));
                    refused(&|| E::pack_nn_bf16(level, &[], 64, huge, 0, 32, &mut panel()));
                    for (rows, cols) in [(32, huge), (huge, 64), (0, huge & !63)] {
                        let scale = |_: usize| 1.0;
                        let nf4 = Nf4Codes { codes: &[], rows, cols, scale, codebook: &[0.0; 16] };
                        refused(&|| E::nf4_nt(level, &nf4, 0, rows.min(32), &mut panel()));
                        // Nothing of no rows is nothing to do.
                        if rows == 0 {
                            continue;
                        }
                        refused(&|| E::nf4_nn(level, &nf4, 0, 32, &mut panel()));
                    }
                }
            }
        }
        all::<bf16>(&refused);
        all::<f32>(&refused);
        assert!(!rows_fit(100, 1 << 63, 3, 10) && !rows_fit(100, usize::MAX, 2, 10));
        assert!(rows_fit(100, usize::MAX, 1, 100) && rows_fit(110, 50, 3, 10));
    }
}
