//! popc, clz, bfind, fns, brev, bfe, bfi, bmsk, szext, prmt (PTX manual, "Integer Arithmetic
//! Instructions" and, for prmt, "Data Movement").

use super::{Args, Form, form, narrow, same};
use crate::machine::registers::Registers;
use crate::ptx::ast::Type::{B32, B64};

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("popc", ["b32"]) => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, u32::count_ones)),
        ("popc", ["b64"]) => form(B32, &[B64], |r, x, m| narrow(r, x, m, u64::count_ones)),
        ("clz", ["b32"]) => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, u32::leading_zeros)),
        ("clz", ["b64"]) => form(B32, &[B64], |r, x, m| narrow(r, x, m, u64::leading_zeros)),
        ("brev", ["b32"]) => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, u32::reverse_bits)),
        ("brev", ["b64"]) => same::<1>(B64, |r, x, m| r.map64(m, x.d, x.a, u64::reverse_bits)),
        ("bfind", rest) => bfind(rest),
        ("fns", ["b32"]) => {
            same::<3>(B32, |r, x, m| r.map32x3(m, x.d, [x.a, x.b, x.c], nth_set_bit))
        }
        ("bfe", [ty]) => bfe(ty),
        ("bfi", ["b32"]) => same::<4>(B32, |r, x, m| {
            let (a, b, at, length) = (*r.r32(x.a), *r.r32(x.b), *r.r32(x.c), *r.r32(x.e));
            let out = std::array::from_fn(|i| {
                let field = field(u64::from(u32::MAX), at[i], length[i]) as u32;
                (b[i] & !field) | (shl(u64::from(a[i]), at[i]) as u32 & field)
            });
            r.set32(x.d, m, &out);
        }),
        ("bfi", ["b64"]) => form(B64, &[B64, B64, B32, B32], |r, x, m| {
            let (a, b, at, length) = (*r.r64(x.a), *r.r64(x.b), *r.r32(x.c), *r.r32(x.e));
            let out = std::array::from_fn(|i| {
                let field = field(u64::MAX, at[i], length[i]);
                (b[i] & !field) | (shl(a[i], at[i]) & field)
            });
            r.set64(x.d, m, &out);
        }),
        ("bmsk", ["wrap", "b32"]) => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |at, n| bits(at & 31, n & 31)))
        }
        ("bmsk", ["clamp", "b32"]) => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, bits)),
        ("szext", [mode, ty]) => szext(mode, ty),
        ("prmt", _) => prmt(modifiers),
        _ => None,
    }
}

/// `n` ones from bit `at` up, as far as 32 bits go.
fn bits(at: u32, n: u32) -> u32 {
    field(u64::from(u32::MAX), at.min(255), n.min(255)) as u32
}

pub fn shl(value: u64, by: u32) -> u64 {
    let by = by & 0xFF;
    if by < 64 { value.wrapping_shl(by) } else { 0 }
}

/// `length` ones from bit `at` up, both of them 8 bits, as far as `all` goes.
pub fn field(all: u64, at: u32, length: u32) -> u64 {
    let ones = !shl(u64::MAX, length);
    shl(ones, at) & all
}

/// Position of the highest bit that is not the sign; all ones where there is none.
fn highest32(a: u32) -> u32 {
    31u32.wrapping_sub(a.leading_zeros())
}

fn highest64(a: u64) -> u32 {
    63u32.wrapping_sub(a.leading_zeros())
}

/// By how much to shift left to have that bit at the top, rather than where it is.
fn shift_amount(highest: u32, top: u32) -> u32 {
    if highest == u32::MAX { u32::MAX } else { top - highest }
}

/// A negative number's zeros are looked for, not its ones.
fn magnitude32(a: u32) -> u32 {
    a ^ ((a as i32) >> 31) as u32
}

fn magnitude64(a: u64) -> u64 {
    a ^ ((a as i64) >> 63) as u64
}

fn bfind(modifiers: &[&str]) -> Option<Form> {
    match modifiers {
        ["u32"] => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, highest32)),
        ["s32"] => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| highest32(magnitude32(a)))),
        ["u64"] => form(B32, &[B64], |r, x, m| narrow(r, x, m, highest64)),
        ["s64"] => form(B32, &[B64], |r, x, m| narrow(r, x, m, |a| highest64(magnitude64(a)))),
        ["shiftamt", "u32"] => {
            same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| shift_amount(highest32(a), 31)))
        }
        ["shiftamt", "s32"] => same::<1>(B32, |r, x, m| {
            r.map32(m, x.d, x.a, |a| shift_amount(highest32(magnitude32(a)), 31))
        }),
        ["shiftamt", "u64"] => {
            form(B32, &[B64], |r, x, m| narrow(r, x, m, |a| shift_amount(highest64(a), 63)))
        }
        ["shiftamt", "s64"] => form(B32, &[B64], |r, x, m| {
            narrow(r, x, m, |a| shift_amount(highest64(magnitude64(a)), 63))
        }),
        _ => None,
    }
}

/// fns: position of the `|offset|`-th set bit of `value` from `base` on, up for a positive offset and down
/// for a negative one; offset 0 asks for the bit at `base` itself. All ones where there is none.
fn nth_set_bit(value: u32, base: u32, offset: u32) -> u32 {
    let offset = offset as i32;
    if base > 31 {
        return u32::MAX;
    }
    let mut left =
        if offset < 0 { value & (u32::MAX >> (31 - base)) } else { value & (u32::MAX << base) };
    if offset == 0 {
        return if value >> base & 1 != 0 { base } else { u32::MAX };
    }
    let nearest = |left: u32| match offset < 0 {
        true => highest32(left),
        false => left.trailing_zeros(),
    };
    for _ in 1..offset.unsigned_abs().min(33) {
        if left != 0 {
            left &= !(1 << nearest(left));
        }
    }
    if left == 0 { u32::MAX } else { nearest(left) }
}

/// The field at `at`, filled above with its highest bit if signed: of the field, or of the value where the
/// field reaches beyond it.
pub fn extract_unsigned(value: u64, at: u32, length: u32) -> u64 {
    let at = at & 0xFF;
    let down = if at < 64 { value.wrapping_shr(at) } else { 0 };
    down & !shl(u64::MAX, length)
}

/// `value` is the whole one, sign-extended to 64 bits.
pub fn extract_signed(value: u64, at: u32, length: u32) -> u64 {
    let (at, length) = ((at & 0xFF).min(63), length & 0xFF);
    let down = (value as i64) >> at;
    let drop = 64 - length.clamp(1, 64);
    if length == 0 { 0 } else { ((down << drop) >> drop) as u64 }
}

fn bfe(ty: &str) -> Option<Form> {
    match ty {
        "u32" => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, at, n| {
                extract_unsigned(u64::from(a), at, n) as u32
            })
        }),
        "s32" => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, at, n| {
                extract_signed(i64::from(a as i32) as u64, at, n) as u32
            })
        }),
        "u64" => form(B64, &[B64, B32, B32], |r, x, m| extract64(r, x, m, extract_unsigned)),
        "s64" => form(B64, &[B64, B32, B32], |r, x, m| extract64(r, x, m, extract_signed)),
        _ => None,
    }
}

#[inline(always)]
fn extract64(r: &mut Registers, x: &Args, mask: u32, f: impl Fn(u64, u32, u32) -> u64) {
    let (a, at, n) = (*r.r64(x.a), *r.r32(x.b), *r.r32(x.c));
    r.set64(x.d, mask, &std::array::from_fn(|i| f(a[i], at[i], n[i])));
}

/// szext: the lower `n` bits, extended by zeros or the sign; n = 0 gives 0, clamped n >= 32 the value.
fn szext(mode: &str, ty: &str) -> Option<Form> {
    match (mode, ty) {
        ("wrap", "u32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, n| extract_unsigned(u64::from(a), 0, n & 31) as u32)
        }),
        ("clamp", "u32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, n| extract_unsigned(u64::from(a), 0, n.min(32)) as u32)
        }),
        ("wrap", "s32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, n| {
                extract_signed(i64::from(a as i32) as u64, 0, n & 31) as u32
            })
        }),
        ("clamp", "s32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, n| {
                extract_signed(i64::from(a as i32) as u64, 0, n.min(32)) as u32
            })
        }),
        _ => None,
    }
}

/// Byte `selector & 7` of `b:a`, or eight copies of its sign where bit 3 of the selector is set.
#[inline(always)]
fn byte(bytes: u64, selector: u32) -> u32 {
    let value = bytes.wrapping_shr(8 * (selector & 7)) as u32 & 0xFF;
    if selector & 8 != 0 { (value >> 7) * 0xFF } else { value }
}

/// Four bytes of `b:a`, chosen by the four nibbles of the selector.
#[inline(always)]
pub fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    byte(bytes, selector)
        | byte(bytes, selector >> 4) << 8
        | byte(bytes, selector >> 8) << 16
        | byte(bytes, selector >> 12) << 24
}

/// The modes of prmt as what they select by the lower two bits of `c`.
const MODES: [(&str, [u32; 4]); 6] = [
    ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
    ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
    ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
    ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
    ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
    ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
];

/// Any mode with a register to choose by.
fn prmt(modifiers: &[&str]) -> Option<Form> {
    fn by_mode<const MODE: usize>(r: &mut Registers, x: &Args, m: u32) {
        r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| permute(a, b, MODES[MODE].1[c as usize & 3]))
    }
    match modifiers {
        ["b32"] => same::<3>(B32, |r, x, m| r.map32x3(m, x.d, [x.a, x.b, x.c], permute)),
        ["b32", "f4e"] => same::<3>(B32, by_mode::<0>),
        ["b32", "b4e"] => same::<3>(B32, by_mode::<1>),
        ["b32", "rc8"] => same::<3>(B32, by_mode::<2>),
        ["b32", "ecl"] => same::<3>(B32, by_mode::<3>),
        ["b32", "ecr"] => same::<3>(B32, by_mode::<4>),
        ["b32", "rc16"] => same::<3>(B32, by_mode::<5>),
        _ => None,
    }
}
