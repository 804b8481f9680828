//! Numeric loops that vectorise: a branch-free exp, sums and maxima in lanes of fixed number.
//!
//! All are `#[inline(always)]`, so that inside [`super::Level::run`] they are compiled for its
//! instruction set. None uses fused multiply-add, so every level gives the same bits.

use std::ops::AddAssign;

/// Below this e^x is 0: the true value would be less than 2^-126, the smallest normal number.
const EXP_MIN: f32 = -87.336_54;
/// Above this e^x is +inf: the next number's true value rounds to 2^128.
const EXP_MAX: f32 = 88.722_83;

/// e^x to within 1 unit in the last place (0.98 at worst); 0 below -87.33654, +inf above 88.72283, NaN stays
/// NaN, and e^0 is exactly 1. Never subnormal.
///
/// Range reduction x = n·ln 2 + t with |t| ≤ ln 2 / 2 in two steps (Cody and Waite), then a
/// polynomial of degree 7 for e^t, then the exponent is made of bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // 9 bits, so that n·LN2_HI is exact.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding 1.5·2^23 rounds to the nearest integer, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(EXP_MIN, EXP_MAX);
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let t = (clamped - n * LN2_HI) - n * LN2_LO;
    let p = 1.987_569_1e-4;
    let p = p * t + 1.398_199_9e-3;
    let p = p * t + 8.333_452e-3;
    let p = p * t + 4.166_579_6e-2;
    let p = p * t + 1.666_666_5e-1;
    let p = p * t + 0.5;
    let y = p * (t * t) + t + 1.0;
    // n is in -126..=128. Two factors, because 2^128 alone is no f32. A NaN gives any k, and the
    // wrapping operations keep that harmless.
    let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    let half = k >> 1;
    let pow2 = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    let y = y * pow2(half) * pow2(k.wrapping_sub(half));
    let y = if x < EXP_MIN { 0.0 } else { y };
    let y = if x > EXP_MAX { f32::INFINITY } else { y };
    if x.is_nan() { x } else { y }
}

/// Below this [`quick_exp`] is 0: e^x is less than 2^-125.4.
const QUICK_EXP_MIN: f32 = -86.95;

/// e^x for a result that is rounded to bf16: off by less than 2^-17 of itself, where that rounding is off by
/// up to 2^-8. 0 below -86.95, +inf above 88.72283, NaN stays NaN, and e^0 is exactly 1.
///
/// 2^r, r being x·log2 e less the nearest integer, by a polynomial of degree 4 (2^-18.4 off). r is formed
/// in one step: half a unit of x·log2 e in its last place is 2^-18 where |x| is near its bounds, which
/// makes 2^-18.5 of the result, and log2 e's own rounding 2^-19.7.
#[inline(always)]
pub fn quick_exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // Above 88.72 the last product overflows by itself.
    let clamped = x.clamp(QUICK_EXP_MIN, 89.0);
    let y = clamped * std::f32::consts::LOG2_E;
    let shifted = y + ROUND;
    let r = y - (shifted - ROUND);
    let p = 9.582_87e-3;
    let p = p * r + 5.590_646_7e-2;
    let p = p * r + 2.402_41e-1;
    let p = p * r + 6.931_242e-1;
    let p = p * r + 1.0;
    // 2^(n-1) for n in -125..=128: the exponent's bits, 126 + n, are 1 at least.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let y = p * f32::from_bits(n.wrapping_add(126) << 23) * 2.0;
    if x < QUICK_EXP_MIN { 0.0 } else { y }
}

/// Partial sums kept by [`sum`]: one AVX-512 register of f32, four of SSE.
pub const LANES: usize = 16;

/// Σ f(a_i) in f32 or f64, in an order that depends on the length alone: element i goes to lane
/// i mod 16, and the lanes are added pairwise. A chain is `len / 16 + 4` additions long.
#[inline(always)]
pub fn sum<A: Copy, S>(a: &[A], f: impl Fn(A) -> S) -> S
where
    S: Copy + Default + AddAssign,
{
    sum3(a, a, a, |a, _, _| f(a))
}

/// Σ f(a_i, b_i, c_i) over three slices of one length, in the order of [`sum`].
#[inline(always)]
pub fn sum3<A: Copy, B: Copy, C: Copy, S>(a: &[A], b: &[B], c: &[C], f: impl Fn(A, B, C) -> S) -> S
where
    S: Copy + Default + AddAssign,
{
    assert!(a.len() == b.len() && a.len() == c.len());
    let mut lanes = [S::default(); LANES];
    let (a, b, c) = (a.chunks_exact(LANES), b.chunks_exact(LANES), c.chunks_exact(LANES));
    let tail = a.remainder().iter().zip(b.remainder()).zip(c.remainder());
    for ((a, b), c) in a.zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i], c[i]);
        }
    }
    for (lane, ((&a, &b), &c)) in lanes.iter_mut().zip(tail) {
        *lane += f(a, b, c);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Additions in f32 that a term of [`sum_in_f64`] goes through before the sum is carried on in f64.
pub const CHAIN: usize = 8;

/// Σ f(a_i) of terms that are f32, in f64 but for stretches of [`CHAIN`] terms in each lane, whose order
/// depends on the length alone: converting every term costs more than most `f` do.
#[inline(always)]
pub fn sum_in_f64<A: Copy>(a: &[A], f: impl Fn(A) -> f32) -> f64 {
    let mut lanes = [0f64; LANES];
    let mut stretches = a.chunks_exact(CHAIN * LANES);
    for stretch in &mut stretches {
        let mut partial = [0f32; LANES];
        for a in stretch.chunks_exact(LANES) {
            for i in 0..LANES {
                partial[i] += f(a[i]);
            }
        }
        for i in 0..LANES {
            lanes[i] += f64::from(partial[i]);
        }
    }
    let rest = sum(stretches.remainder(), |a| f64::from(f(a)));
    lanes.into_iter().sum::<f64>() + rest
}

/// The largest element, -inf when there is none. NaN is passed over.
#[inline(always)]
pub fn max(a: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(tail) {
        *lane = larger(*lane, value);
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Level;

    /// |got - e^x| in units in the last place of e^x.
    fn error_in_ulps(x: f32, got: f32) -> f64 {
        let want = f64::from(x).exp();
        let exponent = ((want.to_bits() >> 52) as i32 - 1023).max(-126);
        (f64::from(got) - want).abs() / 2f64.powi(exponent - 23)
    }

    fn next_up(x: f32) -> f32 {
        f32::from_bits(if x < 0.0 { x.to_bits() - 1 } else { x.to_bits() + 1 })
    }

    fn next_down(x: f32) -> f32 {
        f32::from_bits(if x < 0.0 { x.to_bits() + 1 } else { x.to_bits() - 1 })
    }

    #[test]
    fn exp_is_within_one_ulp_and_the_same_at_every_level() {
        // Every 997th f32 from tiny to the bounds, both signs: 2.2 million values.
        let positive = (0..=EXP_MAX.to_bits()).step_by(997);
        let negative = ((-0f32).to_bits()..=EXP_MIN.to_bits()).step_by(997);
        let xs: Vec<f32> = positive.chain(negative).map(f32::from_bits).collect();
        let portable: Vec<f32> = xs.iter().map(|&x| exp(x)).collect();
        let (worst, x) = xs
            .iter()
            .zip(&portable)
            .map(|(&x, &y)| (error_in_ulps(x, y), x))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .unwrap();
        assert!(worst <= 1.0, "exp({x}) is off by {worst} ulps");
        for level in Level::available() {
            let mut ys = xs.clone();
            level.vectorize(|| ys.iter_mut().for_each(|x| *x = exp(*x)));
            assert!(ys == portable, "{level:?} differs");
        }
    }

    #[test]
    fn quick_exp_is_within_its_bound_and_the_same_at_every_level() {
        let positive = (0..=EXP_MAX.to_bits()).step_by(997);
        let negative = ((-0f32).to_bits()..=QUICK_EXP_MIN.to_bits()).step_by(997);
        let xs: Vec<f32> = positive.chain(negative).map(f32::from_bits).collect();
        let portable: Vec<f32> = xs.iter().map(|&x| quick_exp(x)).collect();
        for (&x, &y) in xs.iter().zip(&portable) {
            let want = f64::from(x).exp();
            let error = (f64::from(y) - want).abs() / want;
            assert!(error < 2f64.powi(-17), "quick_exp({x}) is off by 2^{}", error.log2());
        }
        for level in Level::available() {
            let mut ys = xs.clone();
            level.vectorize(|| ys.iter_mut().for_each(|x| *x = quick_exp(*x)));
            assert!(ys == portable, "{level:?} differs");
        }
        assert_eq!((quick_exp(0.0), quick_exp(-0.0)), (1.0, 1.0));
        assert!(quick_exp(f32::NAN).is_nan() && quick_exp(-f32::NAN).is_nan());
        for x in [next_up(EXP_MAX), 88.8, 89.0, 100.0, f32::MAX, f32::INFINITY] {
            assert_eq!(quick_exp(x), f32::INFINITY, "{x}");
        }
        for x in [next_down(QUICK_EXP_MIN), -87.0, -88.0, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(quick_exp(x).to_bits(), 0, "{x}");
        }
    }

    #[test]
    fn exp_at_its_edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-0.0), 1.0);
        assert!(exp(f32::NAN).is_nan() && exp(-f32::NAN).is_nan());
        assert!(exp(f32::from_bits(0x7f80_0001)).is_nan());
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY).to_bits(), 0);
        assert_eq!(exp(f32::MAX), f32::INFINITY);
        assert_eq!(exp(f32::MIN).to_bits(), 0);
        assert_eq!(exp(f32::MIN_POSITIVE), 1.0);
        for (x, what) in [(EXP_MAX, "upper"), (EXP_MIN, "lower")] {
            let y = exp(x);
            assert!(y.is_normal() && error_in_ulps(x, y) <= 1.0, "{what} bound gives {y:e}");
        }
        assert_eq!(exp(next_up(EXP_MAX)), f32::INFINITY);
        assert_eq!(exp(next_down(EXP_MIN)), 0.0);
        // The bounds are where they should be: 2^128 less half an ulp, and 2^-126.
        assert!(f64::from(next_up(EXP_MAX)).exp() >= 2f64.powi(128) - 2f64.powi(103));
        assert!(f64::from(next_down(EXP_MIN)).exp() < 2f64.powi(-126));
    }

    #[test]
    fn sums_and_maxima_of_every_length() {
        for len in (0..100).chain([127, 128, 129, 300, 1000]) {
            let values: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32) - 50.0).collect();
            let ones = vec![1.0; len];
            // Small integers: every order gives the exact sum.
            let want: f32 = values.iter().sum();
            assert_eq!(sum(&values, |v| v), want, "length {len}");
            assert_eq!(sum(&values, f64::from), f64::from(want), "length {len}");
            assert_eq!(sum_in_f64(&values, |v| v), f64::from(want), "length {len}");
            assert_eq!(sum3(&values, &ones, &values, |a, b, c| 2.0 * a * b - c), want);
            let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&values), largest, "length {len}");
        }
        assert_eq!(max(&[f32::NAN, 1.0, f32::NAN]), 1.0);
        assert!(sum(&[1.0, f32::NAN], |v: f32| v).is_nan());
        assert!(sum_in_f64(&[f32::NAN; 200], |v: f32| v).is_nan());
        // In f32 a lane would stay at 2^27: 8 is half of its unit in the last place.
        let mut many = vec![1f32; 100 * CHAIN * LANES];
        many[..CHAIN * LANES].fill(2f32.powi(24));
        let want = (CHAIN * LANES) as f64 * (2f64.powi(24) + 99.0);
        assert_eq!(sum_in_f64(&many, |v| v), want);
    }
}
