//! The approximate instructions: values well within the errors that the PTX manual grants them.
//!
//! Each is computed in f64 and rounded once, with exactly the special values of the manual's tables. Real
//! GPUs differ in the last bits, as the manual lets them.

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
    if x == 0.0 { x } else { f64::from(x).sin() as f32 }
}

/// `cos.approx.f32`
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// `lg2.approx.f32`
#[inline(always)]
pub fn lg2(x: f32) -> f32 {
    f64::from(x).log2() as f32
}

/// `ex2.approx.f32`
#[inline(always)]
pub fn ex2(x: f32) -> f32 {
    f64::from(x).exp2() as f32
}

/// `tanh.approx.f32`
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    f64::from(x).tanh() as f32
}
