//! and, or, xor, not, cnot, lop3, shl, shr, shf (PTX manual, "Logic and Shift Instructions").

use super::{Args, Form, Op, args_of, form, same, shift64};
use crate::machine::lower::{Lowering, Refusal};
use crate::machine::registers::{LANES, Pred, Registers};
use crate::ptx::ast::Type::{B16, B32, B64};
use crate::ptx::ast::{Instruction, Operand};

pub fn form_of(name: &str, modifiers: &[&str]) -> Option<Form> {
    match (name, modifiers) {
        ("and", ["b16"]) => same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a & b)),
        ("and", ["b32"]) => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a & b)),
        ("and", ["b64"]) => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, |a, b| a & b)),
        ("or", ["b16"]) => same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a | b)),
        ("or", ["b32"]) => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a | b)),
        ("or", ["b64"]) => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, |a, b| a | b)),
        ("xor", ["b16"]) => same::<2>(B16, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a ^ b)),
        ("xor", ["b32"]) => same::<2>(B32, |r, x, m| r.map32x2(m, x.d, x.a, x.b, |a, b| a ^ b)),
        ("xor", ["b64"]) => same::<2>(B64, |r, x, m| r.map64x2(m, x.d, x.a, x.b, |a, b| a ^ b)),
        ("not", ["b16"]) => same::<1>(B16, |r, x, m| r.map32(m, x.d, x.a, |a| !a & 0xFFFF)),
        ("not", ["b32"]) => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| !a)),
        ("not", ["b64"]) => same::<1>(B64, |r, x, m| r.map64(m, x.d, x.a, |a| !a)),
        ("cnot", ["b16"]) => {
            same::<1>(B16, |r, x, m| r.map32(m, x.d, x.a, |a| u32::from(a & 0xFFFF == 0)))
        }
        ("cnot", ["b32"]) => same::<1>(B32, |r, x, m| r.map32(m, x.d, x.a, |a| u32::from(a == 0))),
        ("cnot", ["b64"]) => same::<1>(B64, |r, x, m| r.map64(m, x.d, x.a, |a| u64::from(a == 0))),
        ("shl" | "shr", [ty]) => shift(name, ty),
        ("shf", [direction, mode, "b32"]) => funnel(direction, mode),
        _ => None,
    }
}

/// Counts at or above the width shift everything out.
fn shift(name: &str, ty: &str) -> Option<Form> {
    match (name, ty) {
        ("shl", "b16") => form(B16, &[B16, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a << b.min(16)) & 0xFFFF)
        }),
        ("shl", "b32") => form(B32, &[B32, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| if b < 32 { a.wrapping_shl(b) } else { 0 })
        }),
        ("shl", "b64") => form(B64, &[B64, B32], |r, x, m| {
            shift64(r, x, m, |a, b| if b < 64 { a.wrapping_shl(b) } else { 0 })
        }),
        ("shr", "b16" | "u16") => form(B16, &[B16, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| (a & 0xFFFF) >> b.min(16))
        }),
        ("shr", "s16") => form(B16, &[B16, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| {
                (i32::from(a as u16 as i16) >> b.min(16)) as u32 & 0xFFFF
            })
        }),
        ("shr", "b32" | "u32") => form(B32, &[B32, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| if b < 32 { a.wrapping_shr(b) } else { 0 })
        }),
        ("shr", "s32") => form(B32, &[B32, B32], |r, x, m| {
            r.map32x2(m, x.d, x.a, x.b, |a, b| ((a as i32) >> b.min(31)) as u32)
        }),
        ("shr", "b64" | "u64") => form(B64, &[B64, B32], |r, x, m| {
            shift64(r, x, m, |a, b| if b < 64 { a.wrapping_shr(b) } else { 0 })
        }),
        ("shr", "s64") => form(B64, &[B64, B32], |r, x, m| {
            shift64(r, x, m, |a, b| ((a as i64) >> b.min(63)) as u64)
        }),
        _ => None,
    }
}

/// `b:a` as one number of 64 bits.
fn pair(a: u32, b: u32) -> u64 {
    u64::from(b) << 32 | u64::from(a)
}

/// shf: the upper (l) or lower (r) half of `b:a` shifted.
fn funnel(direction: &str, mode: &str) -> Option<Form> {
    match (direction, mode) {
        ("l", "wrap") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| ((pair(a, b) << (c & 31)) >> 32) as u32)
        }),
        ("l", "clamp") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| ((pair(a, b) << c.min(32)) >> 32) as u32)
        }),
        ("r", "wrap") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| (pair(a, b) >> (c & 31)) as u32)
        }),
        ("r", "clamp") => same::<3>(B32, |r, x, m| {
            r.map32x3(m, x.d, [x.a, x.b, x.c], |a, b, c| (pair(a, b) >> c.min(32)) as u32)
        }),
        _ => None,
    }
}

/// A predicate as a source, perhaps negated.
#[derive(Debug, Clone, Copy)]
struct Input {
    pred: Pred,
    negated: bool,
}

impl Input {
    fn of(operand: &Operand, to: &mut Lowering) -> Result<Input, Refusal> {
        let (pred, negated) = to.src_pred(operand)?;
        Ok(Input { pred, negated })
    }

    fn read(self, regs: &Registers) -> u32 {
        regs.pred(self.pred) ^ if self.negated { u32::MAX } else { 0 }
    }
}

/// A connective of two predicates.
#[derive(Debug, Clone, Copy)]
enum Connective {
    And,
    Or,
    Xor,
}

impl Connective {
    fn of(name: &str) -> Option<Connective> {
        Some(match name {
            "and" => Connective::And,
            "or" => Connective::Or,
            "xor" => Connective::Xor,
            _ => return None,
        })
    }

    fn join(self, a: u32, b: u32) -> u32 {
        match self {
            Connective::And => a & b,
            Connective::Or => a | b,
            Connective::Xor => a ^ b,
        }
    }
}

/// `and.pred d, a, b` and its like; `not.pred d, a` is `!a`.
#[derive(Debug, Clone, Copy)]
pub struct Predicate {
    d: Pred,
    a: Input,
    /// Without it the value of `a` is negated.
    with: Option<(Connective, Input)>,
}

pub fn predicate(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let operands = instruction.operands.as_slice();
    let (d, a, with) = match (instruction.name, instruction.modifiers.len(), operands) {
        ("not", 1, [d, a]) => (d, a, None),
        (name, 1, [d, a, b]) => {
            let connective = Connective::of(name)
                .ok_or_else(|| Refusal::form(instruction, "has no form for predicates"))?;
            (d, a, Some((connective, Input::of(b, to)?)))
        }
        _ => return Err(Refusal::form(instruction, "the machine does not know this form")),
    };
    Ok(Op::Predicate(Predicate { d: to.dst_pred(d)?, a: Input::of(a, to)?, with }))
}

#[inline]
pub fn exec_predicate(op: &Predicate, regs: &mut Registers, mask: u32) {
    let a = op.a.read(regs);
    let value = match op.with {
        None => !a,
        Some((connective, b)) => connective.join(a, b.read(regs)),
    };
    regs.set_pred(op.d, mask, value);
}

/// What `lop3.BoolOp.b32 d|p, a, b, c, lut, q` does besides: `p = (d != 0) BoolOp q`.
#[derive(Debug, Clone, Copy)]
pub struct Test(Option<(Pred, Connective, Input)>);

pub fn lop3(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let refusal = || Refusal::form(instruction, "the machine does not know this form");
    let operands = instruction.operands.as_slice();
    let (d, sources, lut, test) = match (instruction.modifiers.as_slice(), operands) {
        (["b32"], [d, a, b, c, lut]) => (d, [a, b, c], lut, Test(None)),
        ([name @ ("and" | "or"), "b32"], [Operand::Pair(d, p), a, b, c, lut, q]) => {
            let connective = Connective::of(name).ok_or_else(refusal)?;
            let test = (to.dst_pred(p)?, connective, Input::of(q, to)?);
            (&**d, [a, b, c], lut, Test(Some(test)))
        }
        _ => return Err(refusal()),
    };
    let Operand::Int(lut @ 0..=255) = *lut else {
        return Err(Refusal::form(instruction, "its table must be a constant from 0 to 255"));
    };
    let sources = sources.map(Operand::clone);
    let mut args = args_of(d, &sources, to, B32, &[B32; 3])?;
    args.n = lut as u32;
    Ok(Op::Lop3 { args, test })
}

/// Bit `4a + 2b + c` of the table, for every bit. The table's bits are spread to whole words once, then
/// `c`, `b` and `a` choose among them by `no ^ (bit & (no ^ yes))`.
#[inline]
pub fn exec_lop3(x: &Args, test: &Test, regs: &mut Registers, mask: u32) {
    let bit = |i: u32| if x.n >> i & 1 != 0 { u32::MAX } else { 0 };
    let no: [u32; 4] = std::array::from_fn(|i| bit(2 * i as u32));
    let differs: [u32; 4] = std::array::from_fn(|i| no[i] ^ bit(2 * i as u32 + 1));
    let (a, b, c) = (*regs.r32(x.a), *regs.r32(x.b), *regs.r32(x.c));
    let mut out = [0; LANES];
    for i in 0..LANES {
        let [f00, f01, f10, f11]: [u32; 4] = std::array::from_fn(|k| no[k] ^ (c[i] & differs[k]));
        let (f0, f1) = (f00 ^ (b[i] & (f00 ^ f01)), f10 ^ (b[i] & (f10 ^ f11)));
        out[i] = f0 ^ (a[i] & (f0 ^ f1));
    }
    regs.set32(x.d, mask, &out);
    if let Some((p, connective, q)) = test.0 {
        let set = (0..LANES).fold(0, |set, i| set | u32::from(out[i] != 0) << i);
        let value = connective.join(set, q.read(regs));
        regs.set_pred(p, mask, value);
    }
}
