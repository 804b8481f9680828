//! dp4a, dp2a: sums of products of bytes, and of halves with bytes (PTX manual, "Integer Arithmetic
//! Instructions").

use super::{Form, same};
use crate::ptx::ast::Type::B32;

/// Byte `i` as a number.
#[inline(always)]
pub fn byte<const SIGNED: bool>(value: u32, i: u32) -> i32 {
    let byte = (value >> (8 * i)) as u8;
    if SIGNED { i32::from(byte as i8) } else { i32::from(byte) }
}

/// Half `i` as a number.
#[inline(always)]
fn half<const SIGNED: bool>(value: u32, i: u32) -> i32 {
    let half = (value >> (16 * i)) as u16;
    if SIGNED { i32::from(half as i16) } else { i32::from(half) }
}

fn dp4a<const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let sum = (0..4).map(|i| byte::<A>(a, i) * byte::<B>(b, i)).sum::<i32>();
    c.wrapping_add(sum as u32)
}

/// `FIRST` is the first byte of `b` that takes part: 0 for lo, 2 for hi.
fn dp2a<const FIRST: u32, const A: bool, const B: bool>(a: u32, b: u32, c: u32) -> u32 {
    let product = |i| half::<A>(a, i) * byte::<B>(b, FIRST + i);
    c.wrapping_add((product(0) + product(1)) as u32)
}

fn form4<const A: bool, const B: bool>() -> Option<Form> {
    same::<3>(B32, |r, x, m| r.map32x3(m, x.d, [x.a, x.b, x.c], dp4a::<A, B>))
}

fn form2<const FIRST: u32, const A: bool, const B: bool>() -> Option<Form> {
    same::<3>(B32, |r, x, m| r.map32x3(m, x.d, [x.a, x.b, x.c], dp2a::<FIRST, A, B>))
}

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("dp4a", ["u32", "u32"]) => form4::<false, false>(),
        ("dp4a", ["u32", "s32"]) => form4::<false, true>(),
        ("dp4a", ["s32", "u32"]) => form4::<true, false>(),
        ("dp4a", ["s32", "s32"]) => form4::<true, true>(),
        ("dp2a", ["lo", "u32", "u32"]) => form2::<0, false, false>(),
        ("dp2a", ["lo", "u32", "s32"]) => form2::<0, false, true>(),
        ("dp2a", ["lo", "s32", "u32"]) => form2::<0, true, false>(),
        ("dp2a", ["lo", "s32", "s32"]) => form2::<0, true, true>(),
        ("dp2a", ["hi", "u32", "u32"]) => form2::<2, false, false>(),
        ("dp2a", ["hi", "u32", "s32"]) => form2::<2, false, true>(),
        ("dp2a", ["hi", "s32", "u32"]) => form2::<2, true, false>(),
        ("dp2a", ["hi", "s32", "s32"]) => form2::<2, true, true>(),
        _ => None,
    }
}
