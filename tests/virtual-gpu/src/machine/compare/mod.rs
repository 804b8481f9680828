//! setp, set, selp, slct: comparisons and selects (PTX manual, "Comparison and Selection Instructions" and
//! "Half Precision Comparison Instructions").
//!
//! Every comparison is one of five tests, perhaps with its operands swapped, perhaps negated: `geu` of
//! floats is not `lt`. A test gives the mask of the lanes where it holds, so that setp is the test and a
//! few operations on masks.

mod select;
mod test;

use super::lower::{Lowering, Refusal};
use super::registers::{LANES, Pred, Registers, Slot};
use crate::ptx::ast::{Instruction, Operand, Type};
use test::Test;

/// An instruction of this family.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    Setp(Setp),
    Set(Set),
    Select(select::Op),
}

/// A comparison, and the predicate that is joined to its result.
#[derive(Debug, Clone, Copy)]
struct Comparison {
    a: Slot,
    b: Slot,
    /// The result is the opposite of what the test says.
    negated: bool,
    test: Test,
    with: Option<(Connective, Pred, bool)>,
}

/// `setp.CmpOp.BoolOp.type p|q, a, b, c`.
#[derive(Debug, Clone, Copy)]
pub struct Setp {
    comparison: Comparison,
    p: Pred,
    /// Of scalars: the opposite, joined to the predicate likewise.
    q: Option<Pred>,
    /// Of packed halves: what tells of the upper ones, for `q`.
    upper: Option<Test>,
}

/// `set.CmpOp.BoolOp.dtype.stype d, a, b, c`.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    comparison: Comparison,
    d: Slot,
    /// What is written where the comparison holds; zero elsewhere.
    yes: u32,
    /// Of packed halves: what tells of the upper ones, and what is written for them.
    upper: Option<(Test, u32)>,
}

#[derive(Debug, Clone, Copy)]
enum Connective {
    And,
    Or,
    Xor,
}

/// Decodes an instruction of this family; `None` for one of another.
pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(Some(match instruction.name {
        "setp" => Op::Setp(setp(instruction, to)?),
        "set" => Op::Set(set(instruction, to)?),
        "selp" => Op::Select(select::selp(instruction, to)?),
        "slct" => Op::Select(select::slct(instruction, to)?),
        _ => return Ok(None),
    }))
}

fn unknown(instruction: &Instruction) -> Refusal {
    Refusal::form(instruction, "the machine does not know this form")
}

fn setp(instruction: &Instruction, to: &mut Lowering) -> Result<Setp, Refusal> {
    let [modifiers @ .., ty] = instruction.modifiers.as_slice() else {
        return Err(unknown(instruction));
    };
    let [d, sources @ ..] = instruction.operands.as_slice() else {
        return Err(unknown(instruction));
    };
    let (comparison, upper) = comparison(instruction, modifiers, ty, sources, to)?;
    let (p, q) = match d {
        Operand::Pair(..) if matches!(*ty, "f16" | "bf16") => {
            return Err(Refusal::form(instruction, "has one destination"));
        }
        Operand::Pair(p, q) => (to.dst_pred(p)?, Some(to.dst_pred(q)?)),
        d => (to.dst_pred(d)?, None),
    };
    Ok(Setp { comparison, p, q, upper })
}

fn set(instruction: &Instruction, to: &mut Lowering) -> Result<Set, Refusal> {
    let [modifiers @ .., dtype, ty] = instruction.modifiers.as_slice() else {
        return Err(unknown(instruction));
    };
    let [d, sources @ ..] = instruction.operands.as_slice() else {
        return Err(unknown(instruction));
    };
    let (comparison, upper) = comparison(instruction, modifiers, ty, sources, to)?;
    let (yes, width) = match *dtype {
        "u32" | "s32" => (u32::MAX, Type::B32),
        "u16" | "s16" => (0xFFFF, Type::B16),
        "f32" => (1f32.to_bits(), Type::B32),
        "f16" => (0x3C00, Type::B16),
        "bf16" => (0x3F80, Type::B16),
        "f16x2" => (0x3C00, Type::B32),
        "bf16x2" => (0x3F80, Type::B32),
        _ => return Err(unknown(instruction)),
    };
    if dtype.ends_with("x2") && !ty.ends_with("x2") {
        return Err(unknown(instruction));
    }
    let (yes, upper) = match upper {
        // A mask for each half.
        Some(test) if width == Type::B32 && yes == u32::MAX => (0xFFFF, Some((test, 0xFFFF << 16))),
        Some(test) if dtype.ends_with("x2") => (yes, Some((test, yes << 16))),
        Some(_) => return Err(unknown(instruction)),
        None => (yes, None),
    };
    Ok(Set { comparison, d: to.dst(d, width)?, yes, upper })
}

/// Reads `CmpOp{.BoolOp}{.ftz}.type` with `a, b{, {!}c}`; of packed halves, also the upper ones' test.
fn comparison(
    instruction: &Instruction,
    modifiers: &[&str],
    ty: &str,
    sources: &[Operand],
    to: &mut Lowering,
) -> Result<(Comparison, Option<Test>), Refusal> {
    let (modifiers, ftz) = match modifiers {
        [rest @ .., "ftz"] => (rest, true),
        rest => (rest, false),
    };
    let (operator, connective) = match modifiers {
        [operator] => (*operator, None),
        [operator, "and"] => (*operator, Some(Connective::And)),
        [operator, "or"] => (*operator, Some(Connective::Or)),
        [operator, "xor"] => (*operator, Some(Connective::Xor)),
        _ => return Err(unknown(instruction)),
    };
    let found = test::of(operator, ty, ftz).ok_or_else(|| unknown(instruction))?;
    let (a, b, with) = match (connective, sources) {
        (None, [a, b]) => (a, b, None),
        (Some(connective), [a, b, c]) => {
            let (pred, negated) = to.src_pred(c)?;
            (a, b, Some((connective, pred, negated)))
        }
        _ => return Err(Refusal::form(instruction, "has too many or too few sources")),
    };
    let (mut a, mut b) = (to.src(a, found.ty)?, to.src(b, found.ty)?);
    if found.swapped {
        (a, b) = (b, a);
    }
    let comparison = Comparison { a, b, negated: found.negated, test: found.test, with };
    Ok((comparison, found.upper))
}

impl Comparison {
    /// The lanes where `test` and the negation say yes; before the predicate.
    #[inline(always)]
    fn holds(&self, test: Test, regs: &Registers) -> u32 {
        test(regs, self.a, self.b) ^ if self.negated { u32::MAX } else { 0 }
    }

    #[inline(always)]
    fn join(&self, value: u32, regs: &Registers) -> u32 {
        let Some((connective, pred, negated)) = self.with else { return value };
        let c = regs.pred(pred) ^ if negated { u32::MAX } else { 0 };
        match connective {
            Connective::And => value & c,
            Connective::Or => value | c,
            Connective::Xor => value ^ c,
        }
    }
}

/// Executes in the lanes of `mask`.
#[inline]
pub fn exec(op: &Op, regs: &mut Registers, mask: u32) {
    match op {
        Op::Setp(op) => exec_setp(op, regs, mask),
        Op::Set(op) => exec_set(op, regs, mask),
        Op::Select(op) => select::exec(op, regs, mask),
    }
}

#[inline(always)]
fn exec_setp(op: &Setp, regs: &mut Registers, mask: u32) {
    let x = &op.comparison;
    let holds = x.holds(x.test, regs);
    let p = x.join(holds, regs);
    if let Some(q) = op.q {
        let second = op.upper.map_or(!holds, |test| x.holds(test, regs));
        let value = x.join(second, regs);
        regs.set_pred(q, mask, value);
    }
    regs.set_pred(op.p, mask, p);
}

#[inline(always)]
fn exec_set(op: &Set, regs: &mut Registers, mask: u32) {
    let x = &op.comparison;
    let lower = x.join(x.holds(x.test, regs), regs);
    let (upper, high) = match op.upper {
        Some((test, high)) => (x.join(x.holds(test, regs), regs), high),
        None => (0, 0),
    };
    let word = |set: u32, yes: u32, i: usize| yes & (set >> i & 1).wrapping_neg();
    let out: [u32; LANES] = std::array::from_fn(|i| word(lower, op.yes, i) | word(upper, high, i));
    regs.set32(op.d, mask, &out);
}
