//! mul, mad, mul24, mad24 (PTX manual, "Integer Arithmetic Instructions").

use super::{Form, form, same, widen2, widen3};
use crate::ptx::ast::Type::{B16, B32, B64};

fn low16(value: u32) -> u32 {
    value & 0xFFFF
}

fn s16(value: u32) -> i32 {
    i32::from(value as u16 as i16)
}

/// Upper half of the product, unsigned.
pub fn high_u32(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

/// Upper half of the product, signed.
pub fn high_s32(a: u32, b: u32) -> u32 {
    (wide_s32(a, b) >> 32) as u32
}

pub fn high_u64(a: u64, b: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) >> 64) as u64
}

pub fn high_s64(a: u64, b: u64) -> u64 {
    ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64
}

/// The whole product of signed numbers, as bits.
fn wide_s32(a: u32, b: u32) -> u64 {
    (i64::from(a as i32) * i64::from(b as i32)) as u64
}

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("mul", [half, ty]) => mul(half, ty),
        ("mad", [half, ty]) => mad(half, ty),
        ("mad", ["hi", "sat", "s32"]) => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                (high_s32(a, b) as i32).saturating_add(c as i32) as u32
            })
        }),
        ("mul24", [half, ty]) => mul24(half, ty),
        ("mad24", [half, ty]) => mad24(half, ty),
        ("mad24", ["hi", "sat", "s32"]) => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                ((product24_s(a, b) >> 16) as i32).saturating_add(c as i32) as u32
            })
        }),
        _ => None,
    }
}

fn mul(half: &str, ty: &str) -> Option<Form> {
    match (half, ty) {
        ("lo", "u16" | "s16") => {
            same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a.wrapping_mul(b))))
        }
        ("hi", "u16") => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a).wrapping_mul(low16(b)) >> 16)
        }),
        ("hi", "s16") => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (s16(a).wrapping_mul(s16(b)) as u32) >> 16)
        }),
        ("wide", "u16") => form(B32, &[B16, B16], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a).wrapping_mul(low16(b)))
        }),
        ("wide", "s16") => form(B32, &[B16, B16], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| s16(a).wrapping_mul(s16(b)) as u32)
        }),
        ("lo", "u32" | "s32") => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::wrapping_mul))
        }
        ("hi", "u32") => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, high_u32)),
        ("hi", "s32") => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, high_s32)),
        ("wide", "u32") => {
            form(B64, &[B32, B32], |r, x, m| widen2(r, x, m, |a, b| u64::from(a) * u64::from(b)))
        }
        ("wide", "s32") => form(B64, &[B32, B32], |r, x, m| widen2(r, x, m, wide_s32)),
        ("lo", "u64" | "s64") => {
            same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, u64::wrapping_mul))
        }
        ("hi", "u64") => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, high_u64)),
        ("hi", "s64") => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, high_s64)),
        _ => None,
    }
}

fn mad(half: &str, ty: &str) -> Option<Form> {
    match (half, ty) {
        ("lo", "u16" | "s16") => same::<3>(B16, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| low16(a.wrapping_mul(b).wrapping_add(c)))
        }),
        ("hi", "u16") => same::<3>(B16, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                low16((low16(a).wrapping_mul(low16(b)) >> 16).wrapping_add(c))
            })
        }),
        ("hi", "s16") => same::<3>(B16, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                low16(((s16(a).wrapping_mul(s16(b)) as u32) >> 16).wrapping_add(c))
            })
        }),
        ("wide", "u16") => form(B32, &[B16, B16, B32], |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                low16(a).wrapping_mul(low16(b)).wrapping_add(c)
            })
        }),
        ("wide", "s16") => form(B32, &[B16, B16, B32], |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                (s16(a).wrapping_mul(s16(b)) as u32).wrapping_add(c)
            })
        }),
        ("lo", "u32" | "s32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| a.wrapping_mul(b).wrapping_add(c))
        }),
        ("hi", "u32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| high_u32(a, b).wrapping_add(c))
        }),
        ("hi", "s32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| high_s32(a, b).wrapping_add(c))
        }),
        ("wide", "u32") => form(B64, &[B32, B32, B64], |r, x, m| {
            widen3(r, x, m, |a, b, c| (u64::from(a) * u64::from(b)).wrapping_add(c))
        }),
        ("wide", "s32") => form(B64, &[B32, B32, B64], |r, x, m| {
            widen3(r, x, m, |a, b, c| wide_s32(a, b).wrapping_add(c))
        }),
        ("lo", "u64" | "s64") => same::<3>(B64, |r, x, m| {
            r.map64x3(m, x.d, [x.a, x.b, x.c], |a, b, c| a.wrapping_mul(b).wrapping_add(c))
        }),
        ("hi", "u64") => same::<3>(B64, |r, x, m| {
            r.map64x3(m, x.d, [x.a, x.b, x.c], |a, b, c| high_u64(a, b).wrapping_add(c))
        }),
        ("hi", "s64") => same::<3>(B64, |r, x, m| {
            r.map64x3(m, x.d, [x.a, x.b, x.c], |a, b, c| high_s64(a, b).wrapping_add(c))
        }),
        _ => None,
    }
}

/// Product of the lower 24 bits, unsigned: 48 bits.
fn product24_u(a: u32, b: u32) -> u64 {
    u64::from(a & 0xFF_FFFF) * u64::from(b & 0xFF_FFFF)
}

/// Product of the lower 24 bits, signed: bit 23 is the sign.
fn product24_s(a: u32, b: u32) -> u64 {
    let extend = |value: u32| i64::from(((value << 8) as i32) >> 8);
    (extend(a) * extend(b)) as u64
}

/// `hi` takes bits 16 to 47 of the product, `lo` bits 0 to 31.
fn mul24(half: &str, ty: &str) -> Option<Form> {
    match (half, ty) {
        ("lo", "u32") => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| product24_u(a, b) as u32))
        }
        ("lo", "s32") => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| product24_s(a, b) as u32))
        }
        ("hi", "u32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (product24_u(a, b) >> 16) as u32)
        }),
        ("hi", "s32") => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (product24_s(a, b) >> 16) as u32)
        }),
        _ => None,
    }
}

fn mad24(half: &str, ty: &str) -> Option<Form> {
    match (half, ty) {
        ("lo", "u32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| (product24_u(a, b) as u32).wrapping_add(c))
        }),
        ("lo", "s32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| (product24_s(a, b) as u32).wrapping_add(c))
        }),
        ("hi", "u32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                ((product24_u(a, b) >> 16) as u32).wrapping_add(c)
            })
        }),
        ("hi", "s32") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                ((product24_s(a, b) >> 16) as u32).wrapping_add(c)
            })
        }),
        _ => None,
    }
}
