//! f64: NaNs with their payloads, minimum and maximum.

/// The NaN that an invalid operation makes.
pub const NAN: u64 = 0xFFF8_0000_0000_0000;
const SIGN: u64 = 1 << 63;
const INFINITY: u64 = 0x7FF0_0000_0000_0000;
const QUIET: u64 = 1 << 51;

#[inline(always)]
pub fn is_nan(x: u64) -> bool {
    x & !SIGN > INFINITY
}

/// The bits of a result of `inputs`: a NaN is the first one among them, made quiet, or the one of invalid
/// operations (PTX manual 9.7.3: double-precision instructions keep NaN payloads).
#[inline(always)]
pub fn bits<const N: usize>(x: f64, inputs: [u64; N]) -> u64 {
    if x.is_nan() { nan(inputs) } else { x.to_bits() }
}

/// The NaN that an operation on `inputs` gives.
#[inline(always)]
pub fn nan<const N: usize>(inputs: [u64; N]) -> u64 {
    let mut out = NAN;
    for x in inputs.into_iter().rev() {
        out = if is_nan(x) { x | QUIET } else { out };
    }
    out
}

/// An integer that orders numbers as their values, -0 below +0; NaNs are at the ends.
#[inline(always)]
pub fn order(x: u64) -> i64 {
    (x ^ ((x as i64 >> 63) as u64 >> 1)) as i64
}

/// `min`, or `max` if `MAX`; -0 is less than +0, one NaN gives the other number.
#[inline(always)]
pub fn select<const MAX: bool>(a: u64, b: u64) -> u64 {
    let pick_a = if MAX { order(a) >= order(b) } else { order(a) <= order(b) };
    let number = if pick_a { a } else { b };
    match (is_nan(a), is_nan(b)) {
        (true, true) => nan([a, b]),
        (true, false) => b,
        (false, true) => a,
        (false, false) => number,
    }
}
