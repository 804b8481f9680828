//! Values packed in 32 bits: add, sub, min, max, neg of two halves.

use super::{Form, same};
use crate::ptx::ast::Type::B32;

/// The SIMD video instructions.
pub fn is_video(_name: &str) -> bool {
    false
}

/// Lower and upper half, each on its own.
#[inline(always)]
fn halves(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(high) << 16 | u32::from(low)
}

#[inline(always)]
fn signed_halves(a: u32, b: u32, f: impl Fn(i16, i16) -> i16) -> u32 {
    halves(a, b, |a, b| f(a as i16, b as i16) as u16)
}

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("add", ["u16x2" | "s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| halves(a, b, u16::wrapping_add))
        }),
        ("sub", ["u16x2" | "s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| halves(a, b, u16::wrapping_sub))
        }),
        ("neg", ["s16x2"]) => {
            same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| halves(0, a, u16::wrapping_sub)))
        }
        ("min", ["u16x2"]) => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| halves(a, b, u16::min)))
        }
        ("max", ["u16x2"]) => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| halves(a, b, u16::max)))
        }
        ("min", ["s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| signed_halves(a, b, i16::min))
        }),
        ("max", ["s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| signed_halves(a, b, i16::max))
        }),
        ("min", ["relu", "s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| signed_halves(a, b, |a, b| a.min(b).max(0)))
        }),
        ("max", ["relu", "s16x2"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| signed_halves(a, b, |a, b| a.max(b).max(0)))
        }),
        _ => None,
    }
}
