//! Rounding f32 to bf16 a block at a time, with the instruction set's own conversion.
//!
//! An op computes a block in f32 on its stack, in a plain loop, and then has it rounded: that costs
//! one store and one load in the first-level cache, and saves some eight instructions for 16 values
//! where the conversion is one.

use half::bf16;

use super::Level;
use crate::device::cpu::Element;

/// Elements of a block that an op keeps in f32: 2 KB on the stack.
pub const BLOCK: usize = 512;

/// Rounds to nearest even; NaN stays NaN.
///
/// With AVX512-BF16 subnormal numbers (below 2^-126) become zeros of their sign, which is how
/// `vcvtneps2bf16` works whatever the rounding mode; elsewhere they are rounded as others are.
///
/// Panics when the lengths differ.
#[inline(always)]
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "one way to round"))]
pub fn round_to_bf16(level: Level, from: &[f32], to: &mut [bf16]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if level.has_bf16() {
        // SAFETY: this level exists only where the CPU has these features; the lengths are equal.
        unsafe { x86::round(from, to) };
        return;
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = <bf16 as Element>::from_f32(*from);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use half::bf16;

    /// # Safety
    /// The CPU has AVX-512 F, BW, VL and BF16; `to` is as long as `from`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub unsafe fn round(from: &[f32], to: &mut [bf16]) {
        let (full, len) = (from.len() / 32 * 32, from.len());
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        for i in (0..full).step_by(32) {
            // SAFETY: i + 32 ≤ len; a vector of bf16 and one of integers are 512 bits alike.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(from.add(i)), _mm512_loadu_ps(from.add(i + 16)));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.add(i).cast(), both);
            }
        }
        for i in (full..len).step_by(16) {
            let mask = ((1u32 << (len - i).min(16)) - 1) as u16;
            // SAFETY: the mask leaves out what lies beyond the end.
            unsafe {
                let x = _mm512_maskz_loadu_ps(mask, from.add(i));
                let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(x));
                _mm256_mask_storeu_epi16(to.add(i).cast(), mask, rounded);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All of f32 in prime steps, and every tie, at every level.
    #[test]
    fn rounds_as_half_does_but_for_subnormals() {
        let spread = (0..=u32::MAX).step_by(1009);
        let ties = (0..=u16::MAX).map(|high| (u32::from(high) << 16) | 0x8000);
        let from: Vec<f32> = spread.chain(ties).map(f32::from_bits).collect();
        for level in Level::available() {
            let mut to = vec![bf16::from_f32(7.0); from.len()];
            round_to_bf16(level, &from, &mut to);
            let mut flushed = 0;
            for (&x, &got) in from.iter().zip(&to) {
                let want = bf16::from_f32(x);
                if x.is_subnormal() && got.to_bits() == want.to_bits() & 0x8000 {
                    flushed += usize::from(got != want);
                } else if x.is_nan() {
                    assert!(got.is_nan(), "{level:?}: {:#x} gives {got:?}", x.to_bits());
                } else {
                    assert_eq!(got.to_bits(), want.to_bits(), "{level:?}: {:#x}", x.to_bits());
                }
            }
            assert_eq!(flushed > 0, level.has_bf16(), "{level:?}");
        }
    }

    #[test]
    fn every_length_and_nothing_beyond_it() {
        for level in Level::available() {
            for len in 0..100 {
                let from: Vec<f32> = (0..len).map(|i| i as f32 - 40.0).collect();
                let mut to = vec![bf16::ONE; len + 40];
                round_to_bf16(level, &from, &mut to[..len]);
                assert!(to[..len].iter().zip(&from).all(|(to, from)| to.to_f32() == *from));
                assert!(to[len..].iter().all(|x| *x == bf16::ONE), "{level:?}: {len}");
            }
        }
    }
}
