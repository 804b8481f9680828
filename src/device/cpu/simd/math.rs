//! Scalar functions that vectorise: branch-free, f32, inlined into the loops that use them.

/// e^x to within 2 units in the last place; 0 below -87.33, +inf above 88.72, NaN stays NaN.
///
/// Range reduction x = n·ln 2 + t with |t| ≤ ln 2 / 2 in two steps (Cody and Waite), then a
/// polynomial of degree 6 for e^t, then the exponent is added as bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Adding and subtracting 1.5·2^23 rounds to the nearest integer without a library call.
    const ROUND: f32 = 12_582_912.0;
    // min/max drop a NaN, so it is put back at the end.
    let clamped = x.clamp(-87.336_54, 88.722_83);
    let n = (clamped * LOG2_E + ROUND) - ROUND;
    let t = (clamped - n * LN2_HI) - n * LN2_LO;
    let p = 1.987_569_1e-4;
    let p = p * t + 1.398_199_9e-3;
    let p = p * t + 8.333_452e-3;
    let p = p * t + 4.166_579_6e-2;
    let p = p * t + 1.666_666_5e-1;
    let p = p * t + 0.5;
    let y = p * (t * t) + t + 1.0;
    // n is in -126..=128. Two factors keep 2^128 from overflowing the exponent field.
    let half = (n * 0.5 + ROUND) - ROUND;
    let scale = |e: f32| f32::from_bits(((e as i32 + 127) << 23) as u32);
    let y = y * scale(half) * scale(n - half);
    if x < -87.336_54 {
        0.0
    } else if x > 88.722_83 {
        f32::INFINITY
    } else if x.is_nan() {
        x
    } else {
        y
    }
}
