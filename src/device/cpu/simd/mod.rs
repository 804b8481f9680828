//! Instruction sets: which one is used, and the shared primitives written for each.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512bf16;
pub mod math;
pub mod panel;

pub use panel::{GemmElement, MR, NR, Nf4Codes, Segment, panel_len};

/// An instruction set of the CPU backend, chosen once when the device is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Plain Rust, any target.
    Portable,
    /// AVX-512 F/BW/VL/DQ/VBMI with BF16 dot products.
    Avx512Bf16,
}

impl Level {
    /// Every instruction set this build knows, best first.
    pub const ALL: [Level; 2] = [Level::Avx512Bf16, Level::Portable];

    /// The best available one, or the one that `DAYRUN_SIMD` names if it is available.
    pub fn detect() -> Self {
        let wanted = std::env::var("DAYRUN_SIMD").ok();
        let named = |level: &Level| wanted.as_deref().is_none_or(|name| name == level.name());
        Self::ALL
            .into_iter()
            .find(|level| level.is_available() && named(level))
            .unwrap_or(Level::Portable)
    }

    /// Whether this machine can run it.
    pub fn is_available(self) -> bool {
        match self {
            Level::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512Bf16 => false,
        }
    }

    /// The name that `DAYRUN_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Level::Portable => "portable",
            Level::Avx512Bf16 => "avx512bf16",
        }
    }

    /// Runs a short plain Rust loop compiled for this instruction set.
    ///
    /// The closure is called in two places (for each level once), so the compiler inlines it only
    /// while it is small; one that is not inlined stays baseline code: right, but slow. For
    /// anything longer than a few lines use [`Level::run`]. Call either once per block of rows,
    /// not once per element.
    #[inline(always)]
    pub fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        match self {
            Level::Portable => f(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a device with this level is only made when `is_available` said yes.
            Level::Avx512Bf16 => unsafe { vectorize_avx512(f) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512Bf16 => f(),
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline(always)]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Level::Portable => kernel.run(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a device with this level is only made when `is_available` said yes.
            Level::Avx512Bf16 => unsafe { run_avx512(kernel) },
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512Bf16 => kernel.run(),
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn vectorize_avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run()
}
