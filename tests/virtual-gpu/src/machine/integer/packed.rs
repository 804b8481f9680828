//! Values packed in 32 bits: add, min, max of two halves (PTX manual, "Integer Arithmetic Instructions"),
//! and vabsdiff4, the one SIMD video instruction that hardware still has and NVRTC emits.

use super::{Form, dot, same};
use crate::ptx::ast::Type::B32;

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
        ("vabsdiff4", ["u32" | "s32", a, b, rest @ ..]) => match (*a, *b, rest) {
            ("u32", "u32", []) => bytes::<false, false>(),
            ("u32", "s32", []) => bytes::<false, true>(),
            ("s32", "u32", []) => bytes::<true, false>(),
            ("s32", "s32", []) => bytes::<true, true>(),
            ("u32", "u32", ["add"]) => bytes_added::<false, false>(),
            ("u32", "s32", ["add"]) => bytes_added::<false, true>(),
            ("s32", "u32", ["add"]) => bytes_added::<true, false>(),
            ("s32", "s32", ["add"]) => bytes_added::<true, true>(),
            _ => None,
        },
        _ => None,
    }
}

/// The distance of byte `i` of `a` from that of `b`.
#[inline(always)]
fn distance<const A: bool, const B: bool>(a: u32, b: u32, i: u32) -> u32 {
    dot::byte::<A>(a, i).abs_diff(dot::byte::<B>(b, i))
}

/// Each byte of the result is a distance's lower 8 bits; `c` would fill bytes that are masked out.
fn bytes<const A: bool, const B: bool>() -> Option<Form> {
    same::<3>(B32, |r, x, m| {
        r.map32x2(m, x.d, x.a, x.b, |a, b| {
            (0..4).fold(0, |d, i| d | (distance::<A, B>(a, b, i) & 0xFF) << (8 * i))
        })
    })
}

/// The sum of the four distances, on top of `c`.
fn bytes_added<const A: bool, const B: bool>() -> Option<Form> {
    same::<3>(B32, |r, x, m| {
        r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
            (0..4).fold(c, |d, i| d.wrapping_add(distance::<A, B>(a, b, i)))
        })
    })
}
