//! f16 and bf16 through wider formats, so that the compiler can vectorise; every result is rounded once.

use super::Round;
use super::single;
use super::soft::{self, Format};

/// The NaN of both 16-bit formats.
pub const NAN: u32 = 0x7FFF;
const SIGN: u32 = 0x8000;

/// A 16-bit format: f16 or bf16, in the low half of a `u32`.
pub trait Half {
    const FORMAT: Format;
    /// Magnitude of infinity; NaNs are above.
    const INFINITY: u32;
    const ONE: u32;

    /// Exactly the same number; NaN becomes the canonical one of f32.
    fn to_f32(x: u32) -> u32;

    /// To nearest, ties to even; NaN becomes the canonical one.
    fn from_f32(x: u32) -> u32;

    /// a · b + c, one rounding to nearest.
    fn fma(a: u32, b: u32, c: u32) -> u32;

    #[inline(always)]
    fn is_nan(x: u32) -> bool {
        x & !SIGN & 0xFFFF > Self::INFINITY
    }

    /// Subnormals become zeros of their sign.
    #[inline(always)]
    fn flush(x: u32) -> u32 {
        if x & Self::INFINITY == 0 { x & SIGN } else { x }
    }

    /// Into [0, 1], NaN becomes +0.
    #[inline(always)]
    fn saturate(x: u32) -> u32 {
        if x & SIGN != 0 || Self::is_nan(x) { 0 } else { x.min(Self::ONE) }
    }

    /// Negative numbers become +0, NaN the canonical one.
    #[inline(always)]
    fn relu(x: u32) -> u32 {
        if Self::is_nan(x) {
            NAN
        } else if x & SIGN != 0 {
            0
        } else {
            x
        }
    }

    /// An integer that orders numbers as their values, -0 below +0.
    #[inline(always)]
    fn order(x: u32) -> i32 {
        single::order(x << 16)
    }

    /// `min`, or `max` if `MAX`; one NaN gives the other number, or NaN if `NAN_WINS`.
    #[inline(always)]
    fn select<const MAX: bool, const NAN_WINS: bool>(a: u32, b: u32) -> u32 {
        let pick_a =
            if MAX { Self::order(a) >= Self::order(b) } else { Self::order(a) <= Self::order(b) };
        let number = if pick_a { a } else { b };
        let (a_nan, b_nan) = (Self::is_nan(a), Self::is_nan(b));
        let (both, lone) = (a_nan & b_nan, a_nan | b_nan);
        if NAN_WINS && lone || both {
            NAN
        } else if b_nan {
            a
        } else if a_nan {
            b
        } else {
            number
        }
    }
}

/// binary16: 5 bits of exponent, 10 of fraction.
pub struct F16;
/// bfloat16: the upper half of an f32.
pub struct Bf16;

impl Half for F16 {
    const FORMAT: Format = soft::F16;
    const INFINITY: u32 = 0x7C00;
    const ONE: u32 = 0x3C00;

    #[inline(always)]
    fn to_f32(x: u32) -> u32 {
        // With its fields in the places of f32's, the number is too small by the ratio of the biases;
        // the product is exact for subnormals too.
        let scaled = f32::from_bits((x & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
        let special = x & Self::INFINITY == Self::INFINITY;
        let magnitude = if special { 0x7F80_0000 } else { scaled.to_bits() };
        if Self::is_nan(x) { single::NAN } else { magnitude | (x & SIGN) << 16 }
    }

    #[inline(always)]
    fn from_f32(x: u32) -> u32 {
        let sign = x >> 16 & SIGN;
        let magnitude = x & 0x7FFF_FFFF;
        // 2^-14 and up: cut 13 bits off, rounded to even by what is added before.
        let even = magnitude >> 13 & 1;
        let normal = magnitude.wrapping_add(0xFFF + even).wrapping_sub(112 << 23) >> 13;
        // Below: at 0.5 an f32's last bit is 2^-24, the unit of f16's subnormals.
        let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let small = if magnitude < 113 << 23 { subnormal } else { normal };
        // 65520 is the middle between the largest number and what would be the next.
        let out = if magnitude >= 0x477F_F000 { Self::INFINITY } else { small };
        if single::is_nan(x) { NAN } else { out | sign }
    }

    #[inline(always)]
    fn fma(a: u32, b: u32, c: u32) -> u32 {
        let [a, b, c] = [a, b, c].map(|x| f32::from_bits(Self::to_f32(x)));
        // 22 bits, and no exponent that f32 lacks: exact.
        Self::from_f32(add_to_odd_f32(a * b, c))
    }
}

impl Half for Bf16 {
    const FORMAT: Format = soft::BF16;
    const INFINITY: u32 = 0x7F80;
    const ONE: u32 = 0x3F80;

    #[inline(always)]
    fn to_f32(x: u32) -> u32 {
        if Self::is_nan(x) { single::NAN } else { x << 16 }
    }

    #[inline(always)]
    fn from_f32(x: u32) -> u32 {
        let rounded = x.wrapping_add(0x7FFF + (x >> 16 & 1)) >> 16;
        if single::is_nan(x) { NAN } else { rounded }
    }

    #[inline(always)]
    fn fma(a: u32, b: u32, c: u32) -> u32 {
        let [a, b, c] = [a, b, c].map(|x| f64::from(f32::from_bits(Self::to_f32(x))));
        // 16 bits, and no exponent that f64 lacks: exact.
        Self::from_f32(narrow_to_odd(add_to_odd(a * b, c)))
    }
}

/// a + b rounded to odd: the nearer of the two neighbours with an odd last bit if it is not exact. A later
/// rounding to nearest with two bits less or more is then that of the exact sum (Boldo and Melquiond 2008).
#[inline(always)]
pub fn add_to_odd_f32(a: f32, b: f32) -> u32 {
    let sum = a + b;
    // Knuth's two-sum: `error` is what `sum` lacks, exactly.
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    let bits = sum.to_bits();
    // Away from zero if the error has the sum's sign, towards it otherwise; NaN where the sum is infinite.
    let inexact = error != 0.0 && !error.is_nan();
    let away = (error.to_bits() ^ bits) >> 31 == 0;
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    if inexact && bits & 1 == 0 { moved } else { bits }
}

/// As `add_to_odd_f32`, in f64.
#[inline(always)]
pub fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let b_part = sum - a;
    let error = (a - (sum - b_part)) + (b - b_part);
    let bits = sum.to_bits();
    let inexact = error != 0.0 && !error.is_nan();
    let away = (error.to_bits() ^ bits) >> 63 == 0;
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    f64::from_bits(if inexact && bits & 1 == 0 { moved } else { bits })
}

/// To f32, rounded to odd; what is beyond its largest number becomes that (which is odd).
#[inline(always)]
pub fn narrow_to_odd(x: f64) -> u32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let bits = nearest.to_bits();
    let away = back.abs() < x.abs();
    let moved = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = back != x && !x.is_nan();
    if inexact && bits & 1 == 0 { moved } else { bits }
}

/// An operation on both halves of 32 bits.
#[inline(always)]
pub fn both1(a: u32, f: impl Fn(u32) -> u32) -> u32 {
    f(a & 0xFFFF) | f(a >> 16) << 16
}

#[inline(always)]
pub fn both2(a: u32, b: u32, f: impl Fn(u32, u32) -> u32) -> u32 {
    f(a & 0xFFFF, b & 0xFFFF) | f(a >> 16, b >> 16) << 16
}

#[inline(always)]
pub fn both3(a: u32, b: u32, c: u32, f: impl Fn(u32, u32, u32) -> u32) -> u32 {
    f(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF) | f(a >> 16, b >> 16, c >> 16) << 16
}

/// From f32 in any rounding.
pub fn from_f32<H: Half>(x: u32, mode: Round) -> u32 {
    match mode {
        Round::Nearest => H::from_f32(x),
        _ => soft::convert(u64::from(x), &soft::F32, &H::FORMAT, mode) as u32,
    }
}
