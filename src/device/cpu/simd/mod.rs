//! Instruction sets: which one is used, and the shared primitives written for each.
//!
//! A primitive is one function of one name in each level's file: `plain.rs`, `avx2.rs`, `avx512f.rs`,
//! `avx512bf16.rs`, `amx_bf16.rs`. A file takes over from the level below what it does not do better.

/// Calls a primitive of the level's own file, `on!(level, pack_nt(..))`: the one place where levels
/// part, once per call of a primitive.
macro_rules! on {
    ($level:expr, $primitive:ident($($argument:expr),* $(,)?)) => {
        match $level.0 {
            $crate::device::cpu::simd::Set::Portable => {
                $crate::device::cpu::simd::plain::$primitive($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            $crate::device::cpu::simd::Set::Avx2 => {
                $crate::device::cpu::simd::avx2::$primitive($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            $crate::device::cpu::simd::Set::Avx512F => {
                $crate::device::cpu::simd::avx512f::$primitive($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            $crate::device::cpu::simd::Set::Avx512Bf16 => {
                $crate::device::cpu::simd::avx512bf16::$primitive($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            $crate::device::cpu::simd::Set::AmxBf16 => {
                $crate::device::cpu::simd::amx_bf16::$primitive($($argument),*)
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod amx_bf16;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
#[cfg(target_arch = "x86_64")]
mod avx512f;
mod chains;
pub mod convert;
pub mod dot;
pub mod math;
pub mod panel;
mod plain;
pub mod prefetch;
pub mod product;
pub mod softmax;
mod tile;

use half::bf16;

pub use chains::multiply_chains;
pub use panel::{GemmElement, MR, NARROW, NR, Nf4Codes, Segment, panel_len, rows_fit};

/// An instruction set of the CPU backend that this machine has, chosen once when the device is made.
///
/// Safe code gets one only from here, after asking the CPU: having a `Level` proves that its
/// instructions may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Portable,
    /// AVX2 with fused multiply-add: sixteen registers of 8 f32.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F/BW/VL/DQ: thirty-two registers of 16 f32.
    #[cfg(target_arch = "x86_64")]
    Avx512F,
    /// The same with VBMI and BF16 dot products.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The same with AMX: eight registers of 16 × 32 bf16.
    #[cfg(target_arch = "x86_64")]
    AmxBf16,
}

impl Set {
    /// Every one, best first.
    const ALL: &[Set] = &[
        #[cfg(target_arch = "x86_64")]
        Set::AmxBf16,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512Bf16,
        #[cfg(target_arch = "x86_64")]
        Set::Avx512F,
        #[cfg(target_arch = "x86_64")]
        Set::Avx2,
        Set::Portable,
    ];

    fn is_had(self) -> bool {
        match self {
            Set::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512F => has_avx512f(),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => has_avx512bf16(),
            #[cfg(target_arch = "x86_64")]
            Set::AmxBf16 => has_amx_bf16(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Set::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512F => "avx512f",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Set::AmxBf16 => "amx_bf16",
        }
    }
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

/// While it lives, this thread may keep its registers as they are from one tile to the next. For a stretch
/// in which the thread runs nothing but this device's tasks.
#[must_use]
pub struct KeptTiles {
    #[cfg(target_arch = "x86_64")]
    _kept: amx_bf16::Kept,
}

impl KeptTiles {
    /// See the type.
    #[inline(always)]
    pub fn keep() -> Self {
        Self {
            #[cfg(target_arch = "x86_64")]
            _kept: amx_bf16::Kept::new(),
        }
    }
}

impl Level {
    /// Plain Rust, on any target.
    pub const PORTABLE: Level = Level(Set::Portable);

    /// Every instruction set that this machine has, best first; the CPU and the system are asked as the
    /// iterator comes to them.
    pub fn available() -> impl Iterator<Item = Level> {
        Set::ALL.iter().filter(|set| set.is_had()).map(|&set| Level(set))
    }

    /// The best one that this machine has.
    pub fn detect() -> Self {
        Self::available().next().unwrap_or(Level::PORTABLE)
    }

    /// The one of a given name, if this machine has it.
    pub fn from_name(name: &str) -> Result<Self, UnknownLevel> {
        // No other one is asked after: asking for tiles changes what the system saves for the process.
        let named = Set::ALL.iter().find(|set| set.name() == name && set.is_had());
        let named = named.map(|&set| Level(set));
        named.ok_or_else(|| UnknownLevel { name: name.into() })
    }

    /// The one that the environment variable `DAYRUN_SIMD` names; where it is unset, the best.
    pub fn from_env() -> Result<Self, UnknownLevel> {
        match std::env::var_os("DAYRUN_SIMD") {
            Some(name) => Self::from_name(&name.to_string_lossy()),
            None => Ok(Self::detect()),
        }
    }

    /// The name that `DAYRUN_SIMD` takes: `portable`, `avx2`, `avx512f`, `avx512bf16`,
    /// `amx_bf16`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// f32 in one register: 4 (SSE2, NEON), 8 (AVX2) or 16 (AVX-512). There are 16 registers, with
    /// 16 lanes 32. For loops that keep a tile of sums in them.
    #[inline(always)]
    pub fn lanes(self) -> usize {
        match self.0 {
            Set::Portable => 4,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => 8,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512F | Set::Avx512Bf16 | Set::AmxBf16 => 16,
        }
    }

    /// Whether products and conversions of bf16 have instructions of their own.
    #[inline(always)]
    pub fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512Bf16 | Set::AmxBf16 => true,
            _ => false,
        }
    }

    /// Runs a short plain Rust loop compiled for this instruction set.
    ///
    /// The closure is called in three places (for each width of registers once), so the compiler
    /// inlines it only while it is small; one that is not inlined stays baseline code: right, but
    /// slow. For anything longer than a few lines use [`Level::run`], or mark the closure
    /// `#[inline(always)]`. Call either once per block of rows, not once per element.
    #[inline(always)]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        match self.0 {
            Set::Portable => f(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this level is only made where the CPU has these features.
            Set::Avx2 => unsafe { vectorize_avx2(f) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these levels are only made where the CPU has these features.
            Set::Avx512F | Set::Avx512Bf16 | Set::AmxBf16 => unsafe { vectorize_avx512(f) },
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline(always)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => kernel.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: this level is only made where the CPU has these features.
            Set::Avx2 => unsafe { run_avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: these levels are only made where the CPU has these features.
            Set::Avx512F | Set::Avx512Bf16 | Set::AmxBf16 => unsafe { run_avx512(kernel) },
        }
    }

    /// Scales one row of a register tile and rounds it to bf16.
    #[inline(always)]
    pub(super) fn store_bf16(self, tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
        // SAFETY: a level exists only where the CPU has its features.
        unsafe { on!(self, store_bf16(tile, scale, out)) }
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
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512f() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512bf16() -> bool {
    has_avx512f()
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "x86_64")]
fn has_amx_bf16() -> bool {
    has_avx512bf16() && amx_bf16::is_permitted()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn vectorize_avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
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

    /// So that no level goes untested where it could be tested: the names come from what the system
    /// says of the CPU, not from what is asked here.
    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn no_level_that_the_machine_has_is_left_out() {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |names: &str| names.split(' ').all(|n| flags.split_whitespace().any(|f| f == n));
        let want: Vec<&str> = [
            (
                "amx_bf16",
                "avx2 fma avx512f avx512bw avx512vl avx512dq avx512vbmi avx512_bf16 amx_tile amx_bf16",
            ),
            ("avx512bf16", "avx2 fma avx512f avx512bw avx512vl avx512dq avx512vbmi avx512_bf16"),
            ("avx512f", "avx2 fma avx512f avx512bw avx512vl avx512dq"),
            ("avx2", "avx2 fma"),
            ("portable", "lm"),
        ]
        .into_iter()
        .filter_map(|(name, features)| has(features).then_some(name))
        .collect();
        let mut want = want;
        if want[0] == "amx_bf16" && !amx_bf16::is_permitted() {
            eprintln!("SKIPPED amx_bf16: the system does not let this process use tiles");
            want.remove(0);
        }
        let got: Vec<&str> = Level::available().map(Level::name).collect();
        assert_eq!(got, want);
        assert_eq!(Level::detect().name(), want[0]);
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
        for level in Level::available().filter(|level| level.has_bf16()) {
            let (s, zeros, huge) = ([0.0; MR * NR], [0.0; NR], 1 << 59);
            let softmax = |stride: usize, panels: usize, p: &mut [bf16]| {
                let (mut max, mut sum, mut rescale) = ([0.0], [1.0], [0.0]);
                let rows = softmax::Rows { max: &mut max, sum: &mut sum, rescale: &mut rescale };
                softmax::softmax(level, 1.0, (&s, stride, panels), |_| 0..usize::MAX, rows, p);
            };
            refused(&|| softmax(1 << 63, 3, &mut [bf16::ZERO; 3 * NR]));
            refused(&|| softmax(usize::MAX, 2, &mut [bf16::ZERO; 2 * NR]));
            refused(&|| softmax(0, huge, &mut []));
            refused(&|| softmax(0, huge + 1, &mut [bf16::ZERO; NR]));
            for keys in [huge, huge + 1, MR + 1] {
                let (stats, seeing) = ((&zeros, &zeros), |_: usize| 0..NR);
                refused(&|| {
                    let [p, ds] = &mut [[bf16::ZERO; NR]; 2];
                    softmax::gradients(level, 1.0, keys, (&s, &s), stats, seeing, p, ds);
                });
            }
        }
        assert!(!rows_fit(100, 1 << 63, 3, 10) && !rows_fit(100, usize::MAX, 2, 10));
        assert!(rows_fit(100, usize::MAX, 1, 100) && rows_fit(110, 50, 3, 10));
    }
}
