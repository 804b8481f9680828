//! The approximate instructions: values well within the errors that the PTX manual grants them.
//!
//! Each is computed in f64 and rounded once, with exactly the special values of the manual's tables (real
//! GPUs differ in the last bits, as the manual lets them). Series rather than the host's library, so that
//! the compiler can vectorise them and every host gives the same bits; sin and cos, which are rare, take
//! the library's.

/// `rcp.approx.f32`: 1/x (PTX manual 9.7.3.14: at most 1 ulp).
#[inline(always)]
pub fn rcp(x: f32) -> f32 {
    1.0 / x
}

/// `sqrt.approx.f32`
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    x.sqrt()
}

/// `rsqrt.approx.f32`: infinite at zeros, with their sign; NaN below.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    (1.0 / f64::from(x).sqrt()) as f32
}

/// `div.approx.f32`: a·(1/b); beyond 2^126 the reciprocal is zero.
#[inline(always)]
pub fn div(a: f32, b: f32) -> f32 {
    let large = b.abs() > f32::from_bits((127 + 126) << 23) && b.abs() < f32::INFINITY;
    let zero = f32::from_bits(b.to_bits() & 0x8000_0000);
    if large { a * zero } else { a / b }
}

/// `sin.approx.f32`
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

/// `cos.approx.f32`
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// `lg2.approx.f32`: infinite at zeros, NaN below.
#[inline(always)]
pub fn lg2(x: f32) -> f32 {
    // x = m · 2^e with m in [√½, √2), so that the logarithm of numbers near 1 has no cancellation.
    let wide = f64::from(x).to_bits();
    let exponent = (wide.wrapping_sub(0x3FE6_A09E_667F_3BCD) as i64) >> 52;
    let m = f64::from_bits(wide.wrapping_sub((exponent as u64) << 52));
    let e = f64::from_bits(INTEGER.to_bits().wrapping_add_signed(exponent)) - INTEGER;
    // ln m = 2 artanh s, |s| < 0.172: the first term left out is below 2^-44 of the sum.
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let mut sum = 0.0;
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * square + 1.0 / odd;
    }
    let y = (e + sum * s * (2.0 * std::f64::consts::LOG2_E)) as f32;
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `ex2.approx.f32`
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    let y = power(f64::from(x)) as f32;
    if x.is_nan() { x } else { y }
}

/// `tanh.approx.f32`
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let wide = f64::from(x);
    let power = power(wide * (2.0 * std::f64::consts::LOG2_E));
    let large = (power - 1.0) / (power + 1.0);
    // Where the difference would cancel.
    let small = wide * (1.0 - wide * wide / 3.0);
    let y = if wide.abs() < 1.0 / 4096.0 { small } else { large };
    if x.is_nan() { x } else { y as f32 }
}

/// 1.5 · 2^52: added to a smaller number it leaves the nearest integer in the lowest bits.
const INTEGER: f64 = 6755399441055744.0;

/// 2^x, 2^±160 beyond that; relative error below 2^-36. Not for NaN.
#[inline(always)]
fn power(x: f64) -> f64 {
    let x = x.clamp(-160.0, 160.0);
    let shifted = x + INTEGER;
    // |t| < 0.347, the series of exp: the first term left out is t^10 / 10!.
    let t = (x - (shifted - INTEGER)) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for factorial in [362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum * t + 1.0 / factorial;
    }
    f64::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 52))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest relative error over random arguments of every size.
    fn worst(f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64, range: f32) -> f64 {
        let mut state = 7u64;
        let mut worst = 0.0f64;
        for i in 0..200_000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let unit = (state >> 40) as f32 / (1 << 24) as f32;
            let size = range * f32::powi(2.0, -(i % 40));
            let x = (unit * 2.0 - 1.0) * size;
            let want = exact(f64::from(x));
            if want.is_finite() && want.abs() > 1.2e-38 && want.abs() < 3.4e38 {
                let error = ((f64::from(f(x)) - want) / want).abs();
                assert!(!error.is_nan(), "at {x}");
                worst = worst.max(error);
            }
        }
        worst
    }

    #[test]
    fn approximations_are_nearly_rounded_right() {
        let half_ulp = f64::powi(2.0, -24);
        let table: [(&str, f64); 5] = [
            ("ex2", worst(ex2, f64::exp2, 126.0)),
            ("tanh", worst(tanh, f64::tanh, 20.0)),
            ("lg2", worst(lg2, f64::log2, 1e38)),
            ("lg2 near 1", worst(|x| lg2(1.0 + x), |x| f64::from(1.0 + x as f32).log2(), 0.5)),
            ("rsqrt", worst(rsqrt, |x| 1.0 / x.sqrt(), 1e38)),
        ];
        for (name, error) in table {
            assert!(error < 1.01 * half_ulp, "{name}: relative error {error:e}");
            assert!(error > 0.7 * half_ulp, "{name}: nothing was measured, {error:e}");
        }
    }
}
