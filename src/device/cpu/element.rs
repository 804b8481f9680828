//! The two activation types of the CPU backend: `f32` and `bf16`.

use half::bf16;

use super::simd::{Level, NR, convert, math};

/// An activation element. Arithmetic is always f32; `E` is how a value is stored between ops.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Name as in run files: `f32`, `bf16`.
    const NAME: &'static str;
    /// Exact widening to f32.
    fn to_f32(self) -> f32;
    /// Round to nearest even; NaN stays NaN.
    fn from_f32(x: f32) -> Self;
    /// Rounds a block with the level's own conversion ([`convert::round_to_bf16`] says what that
    /// does to subnormal numbers). Panics when the lengths differ.
    fn round(level: Level, from: &[f32], to: &mut [Self]);
    /// What storing `x` and loading it again gives: for values that are rounded on the way to a
    /// result. A NaN that bf16 can hold stays one, and arithmetic on such gives no other.
    fn rounded(x: f32) -> f32;
    /// e^x for a result that is rounded to this type: [`math::exp`], or its quicker sibling.
    fn exp(x: f32) -> f32;
    /// Scales one row of a register tile and rounds it, with the level's own conversion.
    #[inline(always)]
    fn store(level: Level, tile: &[f32; NR], scale: f32, out: &mut [Self; NR]) {
        let _ = level;
        for (out, &x) in out.iter_mut().zip(tile) {
            *out = Self::from_f32(x * scale);
        }
    }
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn round(_: Level, from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    #[inline(always)]
    fn rounded(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn exp(x: f32) -> f32 {
        math::exp(x)
    }
    #[inline(always)]
    fn store(level: Level, tile: &[f32; NR], scale: f32, out: &mut [f32; NR]) {
        level.vectorize(|| out.iter_mut().zip(tile).for_each(|(out, x)| *out = x * scale));
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn store(level: Level, tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
        level.store_bf16(tile, scale, out);
    }
    /// Branch-free, so that a loop over it vectorises (`half`'s own branches on NaN).
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet = (bits >> 16) | 0x40;
        let is_nan = (bits & 0x7fff_ffff) > 0x7f80_0000;
        bf16::from_bits(if is_nan { quiet } else { rounded } as u16)
    }
    #[inline(always)]
    fn round(level: Level, from: &[f32], to: &mut [bf16]) {
        convert::round_to_bf16(level, from, to);
    }
    #[inline(always)]
    fn rounded(x: f32) -> f32 {
        let bits = x.to_bits();
        f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
    }
    #[inline(always)]
    fn exp(x: f32) -> f32 {
        math::quick_exp(x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_rounds_as_half_does() {
        // A prime step visits every exponent, and ties are tried on purpose.
        let spread = (0..=u32::MAX).step_by(4099);
        let ties = (0..=u16::MAX).map(|high| (u32::from(high) << 16) | 0x8000);
        for bits in spread.chain(ties) {
            let x = f32::from_bits(bits);
            let (got, want) = (<bf16 as Element>::from_f32(x), bf16::from_f32(x));
            if x.is_nan() {
                assert!(got.is_nan(), "{bits:#x} gives {got:?}");
            } else {
                assert_eq!(got.to_bits(), want.to_bits(), "{bits:#x}");
            }
        }
        for bits in 0..=u16::MAX {
            // Widening keeps every bit, a NaN's payload included (`half` makes those quiet).
            let widened = Element::to_f32(bf16::from_bits(bits));
            assert_eq!(widened.to_bits(), u32::from(bits) << 16, "{bits:#x}");
            // What bf16 can hold is its own rounding, NaN included.
            assert_eq!(<bf16 as Element>::rounded(widened).to_bits(), widened.to_bits());
        }
    }

    #[test]
    fn rounding_on_the_way_is_storing_and_loading() {
        for bits in (0..=u32::MAX).step_by(4099) {
            let x = f32::from_bits(bits);
            let want = Element::to_f32(<bf16 as Element>::from_f32(x));
            let got = <bf16 as Element>::rounded(x);
            assert!(x.is_nan() || got.to_bits() == want.to_bits(), "{bits:#x}");
            assert_eq!(f32::rounded(x).to_bits(), bits);
        }
    }
}
