//! The arithmetic of a tensor core: elements' values, sums of products, rounding of the sum.
//!
//! Products of f16, bf16, tf32 and fp8 elements are exact in f64 (at most 22 bits). They are summed in f64 in
//! order of k, C is added last, and the sum is rounded once, to nearest even, to the type of D. With the 53
//! bits of f64 that is the correctly rounded sum but for rare near-ties (and cancellation of more than 29
//! bits). The manual asks for less: "at least single precision" for f32, order and rounding unspecified. Real
//! tensor cores align the products of a few k (4 to 16, by generation) and C to the largest exponent among
//! them, cut off what falls below 0 to 3 bits under f32's last place, and truncate the sum (Fasi, Higham,
//! Mikaitis, Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021; Khattak, Mikaitis, "Accurate Models
//! of NVIDIA Tensor Cores", arXiv 2512.07004): fp8 on sm_89 and sm_90 keeps 13 bits only. So results here
//! differ from a GPU's in the last places, on the accurate side; NaNs are the canonical ones.

use super::super::arith::half::{self, F16, Half};
use super::super::arith::single;

/// Sums of a 16 × 8 tile (of 8 rows in use for the m8 shapes).
pub type Accumulators<T> = [[T; 8]; 16];

/// `sum over k of multiply(a[i][k], b[k][j])`, k ascending.
#[inline(always)]
pub fn sum<T: Copy, S: Copy + Default + std::ops::AddAssign, const K: usize>(
    a: &[[T; K]; 16],
    b: &[[T; 8]; K],
    multiply: impl Fn(T, T) -> S,
) -> Accumulators<S> {
    let mut sums = [[S::default(); 8]; 16];
    for (a, out) in a.iter().zip(&mut sums) {
        let mut row = [S::default(); 8];
        for (&a, b) in a.iter().zip(b) {
            for (sum, &b) in row.iter_mut().zip(b) {
                *sum += multiply(a, b);
            }
        }
        *out = row;
    }
    sums
}

/// 2¹²⁰, which takes e4m3's exponent to f32's.
const E4M3_SCALE: f32 = f32::from_bits((127 + 120) << 23);

#[inline(always)]
pub fn from_f16(bits: u32) -> f64 {
    f64::from(f32::from_bits(F16::to_f32(bits)))
}

#[inline(always)]
pub fn from_bf16(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits << 16))
}

/// The low 13 bits of a tf32 register are not looked at.
#[inline(always)]
pub fn from_tf32(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits & 0xFFFF_E000))
}

/// Four exponent bits, three of fraction; no infinity, all ones is the NaN.
#[inline(always)]
pub fn from_e4m3(bits: u32) -> f64 {
    let magnitude = bits & 0x7F;
    // The product is exact, for subnormals too.
    let finite = f32::from_bits(magnitude << 20) * E4M3_SCALE;
    let value = if magnitude == 0x7F { f32::NAN } else { finite };
    f64::from(if bits & 0x80 != 0 { -value } else { value })
}

/// The upper byte of an f16.
#[inline(always)]
pub fn from_e5m2(bits: u32) -> f64 {
    from_f16(bits << 8)
}

/// Bits of the nearest f32.
#[inline(always)]
pub fn to_f32(value: f64) -> u32 {
    single::bits(value as f32)
}

/// Bits of the nearest f16.
#[inline(always)]
pub fn to_f16(value: f64) -> u32 {
    F16::from_f32(half::narrow_to_odd(value))
}
