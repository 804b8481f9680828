//! f32: flushing, saturation, the canonical NaN, minimum and maximum.

/// What every NaN result of f32 is (PTX manual 9.7.3: single-precision NaNs have no payload).
pub const NAN: u32 = 0x7FFF_FFFF;
const SIGN: u32 = 0x8000_0000;
const INFINITY: u32 = 0x7F80_0000;

#[inline(always)]
pub fn is_nan(x: u32) -> bool {
    x & !SIGN > INFINITY
}

/// `.ftz`: subnormals become zeros of their sign.
#[inline(always)]
pub fn flush(x: u32) -> u32 {
    if x & INFINITY == 0 { x & SIGN } else { x }
}

/// Subnormals become zeros if `FTZ`.
#[inline(always)]
pub fn flush_if<const FTZ: bool>(x: u32) -> u32 {
    if FTZ { flush(x) } else { x }
}

/// The bits of a result: NaNs are canonical.
#[inline(always)]
pub fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// `.sat`: into [0, 1], NaN becomes +0.
#[inline(always)]
pub fn saturate(x: u32) -> u32 {
    // Negative numbers and NaNs of either sign become zero.
    if x & SIGN != 0 || is_nan(x) {
        0
    } else if x > 0x3F80_0000 {
        0x3F80_0000
    } else {
        x
    }
}

/// A result on its way into a register.
#[inline(always)]
pub fn finish<const FTZ: bool, const SAT: bool>(x: f32) -> u32 {
    let x = flush_if::<FTZ>(bits(x));
    if SAT { saturate(x) } else { x }
}

/// An integer that orders numbers as their values, -0 below +0; NaNs are at the ends.
#[inline(always)]
pub fn order(x: u32) -> i32 {
    (x ^ ((x as i32 >> 31) as u32 >> 1)) as i32
}

/// `min`, or `max` if `MAX`; -0 is less than +0. One NaN gives the other number, or NaN if `NAN_WINS`
/// (PTX manual 9.7.3.12 and 9.7.3.13).
#[inline(always)]
pub fn select<const MAX: bool, const NAN_WINS: bool>(a: u32, b: u32) -> u32 {
    let pick_a = if MAX { order(a) >= order(b) } else { order(a) <= order(b) };
    let number = if pick_a { a } else { b };
    let (a_nan, b_nan) = (is_nan(a), is_nan(b));
    if NAN_WINS {
        if a_nan | b_nan { NAN } else { number }
    } else {
        let number = if b_nan { a } else { number };
        let number = if a_nan { b } else { number };
        if a_nan & b_nan { NAN } else { number }
    }
}
