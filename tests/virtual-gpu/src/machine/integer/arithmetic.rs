//! add, sub, sad, div, rem, abs, neg, min, max (PTX manual, "Integer Arithmetic Instructions").

use super::{Form, same};
use crate::ptx::ast::Type::{B16, B32, B64};

/// Values of 16 bits lie in 32, with zeros above.
fn low16(value: u32) -> u32 {
    value & 0xFFFF
}

/// A value of 16 bits as a signed number.
fn s16(value: u32) -> i32 {
    i32::from(value as u16 as i16)
}

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("add", ["u16" | "s16"]) => {
            same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a.wrapping_add(b))))
        }
        ("add", ["u32" | "s32"]) => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::wrapping_add))
        }
        ("add", ["u64" | "s64"]) => {
            same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, u64::wrapping_add))
        }
        ("add", ["sat", "s32"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).saturating_add(b as i32) as u32)
        }),
        ("sub", ["u16" | "s16"]) => {
            same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a.wrapping_sub(b))))
        }
        ("sub", ["u32" | "s32"]) => {
            same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::wrapping_sub))
        }
        ("sub", ["u64" | "s64"]) => {
            same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, u64::wrapping_sub))
        }
        ("sub", ["sat", "s32"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).saturating_sub(b as i32) as u32)
        }),
        ("sad", [ty]) => sad(ty),
        ("div", [ty]) => div(ty),
        ("rem", [ty]) => rem(ty),
        ("abs" | "neg", [ty]) => sign(name, ty),
        ("min", [ty]) => min(ty),
        ("max", [ty]) => max(ty),
        ("min", ["relu", "s32"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).min(b as i32).max(0) as u32)
        }),
        ("max", ["relu", "s32"]) => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).max(b as i32).max(0) as u32)
        }),
        _ => None,
    }
}

fn sad(ty: &str) -> Option<Form> {
    match ty {
        "u16" => same::<3>(B16, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                low16(c.wrapping_add(low16(a).abs_diff(low16(b))))
            })
        }),
        "s16" => same::<3>(B16, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                low16(c.wrapping_add(s16(a).abs_diff(s16(b))))
            })
        }),
        "u32" => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| c.wrapping_add(a.abs_diff(b)))
        }),
        "s32" => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                c.wrapping_add((a as i32).abs_diff(b as i32))
            })
        }),
        "u64" => same::<3>(B64, |r, x, m| {
            r.map64x3(m, x.d, [x.a, x.b, x.c], |a, b, c| c.wrapping_add(a.abs_diff(b)))
        }),
        "s64" => same::<3>(B64, |r, x, m| {
            r.map64x3(m, x.d, [x.a, x.b, x.c], |a, b, c| {
                c.wrapping_add((a as i64).abs_diff(b as i64))
            })
        }),
        _ => None,
    }
}

// The manual leaves division by zero unspecified; the code that ptxas makes for it gives all ones, for
// quotient and remainder alike. MIN / -1 wraps to MIN and its remainder is 0.

fn div(ty: &str) -> Option<Form> {
    match ty {
        "u16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a).checked_div(low16(b)).unwrap_or(0xFFFF))
        }),
        "s16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| {
                low16(s16(a).checked_div(s16(b)).unwrap_or(-1) as u32)
            })
        }),
        "u32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| a.checked_div(b).unwrap_or(u32::MAX))
        }),
        "s32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| match b {
                0 => u32::MAX,
                _ => (a as i32).wrapping_div(b as i32) as u32,
            })
        }),
        "u64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| a.checked_div(b).unwrap_or(u64::MAX))
        }),
        "s64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| match b {
                0 => u64::MAX,
                _ => (a as i64).wrapping_div(b as i64) as u64,
            })
        }),
        _ => None,
    }
}

fn rem(ty: &str) -> Option<Form> {
    match ty {
        "u16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(a).checked_rem(low16(b)).unwrap_or(0xFFFF))
        }),
        "s16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| {
                low16(s16(a).checked_rem(s16(b)).unwrap_or(-1) as u32)
            })
        }),
        "u32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| a.checked_rem(b).unwrap_or(u32::MAX))
        }),
        "s32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| match b {
                0 => u32::MAX,
                _ => (a as i32).wrapping_rem(b as i32) as u32,
            })
        }),
        "u64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| a.checked_rem(b).unwrap_or(u64::MAX))
        }),
        "s64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| match b {
                0 => u64::MAX,
                _ => (a as i64).wrapping_rem(b as i64) as u64,
            })
        }),
        _ => None,
    }
}

/// abs and neg; both of MIN are MIN.
fn sign(name: &str, ty: &str) -> Option<Form> {
    match (name, ty) {
        ("abs", "s16") => {
            same::<1>(B16, |r, x, m| r.map32(m, x.d, x.a, |a| low16(s16(a).unsigned_abs())))
        }
        ("abs", "s32") => {
            same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| (a as i32).unsigned_abs()))
        }
        ("abs", "s64") => {
            same::<1>(B64, |r, x, m| r.map64(m, x.d, x.a, |a| (a as i64).unsigned_abs()))
        }
        ("neg", "s16") => {
            same::<1>(B16, |r, x, m| r.map32(m, x.d, x.a, |a| low16(a.wrapping_neg())))
        }
        ("neg", "s32") => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, u32::wrapping_neg)),
        ("neg", "s64") => same::<1>(B64, |r, x, m| r.map64(m, x.d, x.a, u64::wrapping_neg)),
        _ => None,
    }
}

fn min(ty: &str) -> Option<Form> {
    match ty {
        "u16" => same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::min)),
        "s16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(s16(a).min(s16(b)) as u32))
        }),
        "u32" => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::min)),
        "s32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).min(b as i32) as u32)
        }),
        "u64" => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, u64::min)),
        "s64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| (a as i64).min(b as i64) as u64)
        }),
        _ => None,
    }
}

fn max(ty: &str) -> Option<Form> {
    match ty {
        "u16" => same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::max)),
        "s16" => same::<2>(B16, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| low16(s16(a).max(s16(b)) as u32))
        }),
        "u32" => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, u32::max)),
        "s32" => same::<2>(B32, |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a as i32).max(b as i32) as u32)
        }),
        "u64" => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, u64::max)),
        "s64" => same::<2>(B64, |r, x, m| {
            r.map64x2(m, x.d, x.a, x.b, |a, b| (a as i64).max(b as i64) as u64)
        }),
        _ => None,
    }
}
