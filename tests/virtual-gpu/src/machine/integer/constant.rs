//! Shifts, bit fields and permutations by constants, as compilers write nearly all of them: what is the same
//! in all lanes is computed once, and baseline x86-64 has vector shifts by one count but not by many.

use super::Run;
use super::bits::{extract_signed, extract_unsigned, field, permute, shl};
use crate::ptx::ast::{Instruction, Operand};

/// A faster function for a form whose last operands are constants, and `Args::n` for it. Its other
/// operands are as they always are.
pub fn form_of(instruction: &Instruction) -> Option<(Run, u32)> {
    let modifiers = instruction.modifiers.as_slice();
    match (instruction.name, instruction.operands.as_slice()) {
        ("shl" | "shr", [_, _, Operand::Int(n)]) => {
            shift(instruction.name, modifiers, u32::try_from(*n).ok()?)
        }
        ("bfe", [_, _, Operand::Int(at @ 0..=255), Operand::Int(length @ 0..=255)]) => {
            Some((extract(modifiers)?, (at | length << 8) as u32))
        }
        ("bfi", [_, _, _, Operand::Int(at @ 0..=255), Operand::Int(length @ 0..=255)]) => {
            Some((insert(modifiers)?, (at | length << 8) as u32))
        }
        ("prmt", [_, _, _, Operand::Int(selector)]) if modifiers == ["b32"] => Some((
            |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| permute(a, b, x.n)),
            *selector as u32 & 0xFFFF,
        )),
        _ => None,
    }
}

/// Counts below the width; others are rare enough.
fn shift(name: &str, modifiers: &[&str], n: u32) -> Option<(Run, u32)> {
    let run: Run = match (name, modifiers) {
        ("shl", ["b16"]) if n < 16 => {
            |r, x, m| r.map32(m, x.d, x.a, |a| a.wrapping_shl(x.n) & 0xFFFF)
        }
        ("shr", ["b16" | "u16"]) if n < 16 => {
            |r, x, m| r.map32(m, x.d, x.a, |a| (a & 0xFFFF).wrapping_shr(x.n))
        }
        ("shl", ["b32"]) if n < 32 => |r, x, m| r.map32(m, x.d, x.a, |a| a.wrapping_shl(x.n)),
        ("shr", ["b32" | "u32"]) if n < 32 => {
            |r, x, m| r.map32(m, x.d, x.a, |a| a.wrapping_shr(x.n))
        }
        ("shr", ["s32"]) if n < 32 => {
            |r, x, m| r.map32(m, x.d, x.a, |a| (a as i32).wrapping_shr(x.n) as u32)
        }
        ("shl", ["b64"]) if n < 64 => |r, x, m| r.map64(m, x.d, x.a, |a| a.wrapping_shl(x.n)),
        ("shr", ["b64" | "u64"]) if n < 64 => {
            |r, x, m| r.map64(m, x.d, x.a, |a| a.wrapping_shr(x.n))
        }
        ("shr", ["s64"]) if n < 64 => {
            |r, x, m| r.map64(m, x.d, x.a, |a| (a as i64).wrapping_shr(x.n) as u64)
        }
        _ => return None,
    };
    Some((run, n))
}

fn extract(modifiers: &[&str]) -> Option<Run> {
    Some(match modifiers {
        ["u32"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            let down = at.min(31);
            let keep = extract_unsigned(u64::from(u32::MAX), at, length) as u32;
            r.map32(m, x.d, x.a, |a| a.wrapping_shr(down) & keep);
        },
        ["s32"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            r.map32(m, x.d, x.a, |a| extract_signed(i64::from(a as i32) as u64, at, length) as u32);
        },
        ["u64"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            r.map64(m, x.d, x.a, |a| extract_unsigned(a, at, length));
        },
        ["s64"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            r.map64(m, x.d, x.a, |a| extract_signed(a, at, length));
        },
        _ => return None,
    })
}

fn insert(modifiers: &[&str]) -> Option<Run> {
    Some(match modifiers {
        ["b32"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            let field = field(u64::from(u32::MAX), at, length) as u32;
            let up = at.min(31);
            r.map32x2(m, x.d, x.a, x.b, |a, b| (b & !field) | (a.wrapping_shl(up) & field));
        },
        ["b64"] => |r, x, m| {
            let (at, length) = (x.n & 0xFF, x.n >> 8);
            let field = field(u64::MAX, at, length);
            r.map64x2(m, x.d, x.a, x.b, |a, b| (b & !field) | (shl(a, at) & field));
        },
        _ => return None,
    })
}
