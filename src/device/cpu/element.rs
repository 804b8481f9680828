//! The two activation types of the CPU backend: `f32` and `bf16`.

use half::bf16;

use super::simd::{Level, NR};

/// An activation element. Arithmetic is always f32; `E` is how a value is stored between ops.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Name as in run files: `f32`, `bf16`.
    const NAME: &'static str;
    /// Exact widening to f32.
    fn to_f32(self) -> f32;
    /// Round to nearest even; NaN stays NaN.
    fn from_f32(x: f32) -> Self;
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
        }
    }
}
