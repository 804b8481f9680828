//! selp and slct.

use super::unknown;
use crate::machine::lower::{Lowering, Refusal};
use crate::machine::registers::{LANES, Pred, Registers, Slot};
use crate::ptx::ast::{Instruction, Type};

/// `d = condition ? a : b`.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    d: Slot,
    a: Slot,
    b: Slot,
    wide: bool,
    condition: Condition,
}

#[derive(Debug, Clone, Copy)]
enum Condition {
    Predicate(Pred, bool),
    /// The slot holds a signed integer that is not negative.
    NotNegative(Slot),
    /// It holds a float at or above zero (-0 is, a NaN is not); a negative subnormal is one too if flushed.
    AtLeastZero(Slot),
    AtLeastZeroFlushed(Slot),
}

/// The types whose values can be selected.
fn selected(name: &str) -> Option<Type> {
    let ty = Type::from_name(name)?;
    let known = matches!(
        name,
        "b16" | "b32" | "b64" | "u16" | "u32" | "u64" | "s16" | "s32" | "s64" | "f32" | "f64"
    );
    known.then_some(ty)
}

pub fn selp(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let ([ty], [d, a, b, p]) = (instruction.modifiers.as_slice(), instruction.operands.as_slice())
    else {
        return Err(unknown(instruction));
    };
    let ty = selected(ty).ok_or_else(|| unknown(instruction))?;
    let (pred, negated) = to.src_pred(p)?;
    let condition = Condition::Predicate(pred, negated);
    let (d, a, b) = (to.dst(d, ty)?, to.src(a, ty)?, to.src(b, ty)?);
    Ok(Op { d, a, b, wide: ty.bytes() == 8, condition })
}

pub fn slct(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let [d, a, b, c] = instruction.operands.as_slice() else { return Err(unknown(instruction)) };
    let (ty, condition) = match instruction.modifiers.as_slice() {
        [ty, "s32"] => (ty, Condition::NotNegative(to.src(c, Type::S32)?)),
        [ty, "f32"] => (ty, Condition::AtLeastZero(to.src(c, Type::F32)?)),
        ["ftz", ty, "f32"] => (ty, Condition::AtLeastZeroFlushed(to.src(c, Type::F32)?)),
        _ => return Err(unknown(instruction)),
    };
    let ty = selected(ty).ok_or_else(|| unknown(instruction))?;
    let (d, a, b) = (to.dst(d, ty)?, to.src(a, ty)?, to.src(b, ty)?);
    Ok(Op { d, a, b, wide: ty.bytes() == 8, condition })
}

#[inline(always)]
pub fn exec(op: &Op, regs: &mut Registers, mask: u32) {
    let first = match op.condition {
        Condition::Predicate(pred, negated) => regs.pred(pred) ^ if negated { u32::MAX } else { 0 },
        Condition::NotNegative(c) => holds(regs, c, |c| (c as i32) >= 0),
        Condition::AtLeastZero(c) => holds(regs, c, |c| f32::from_bits(c) >= 0.0),
        Condition::AtLeastZeroFlushed(c) => holds(regs, c, |c| super::test::flush32(c) >= 0.0),
    };
    if op.wide {
        let (a, b) = (*regs.r64(op.a), *regs.r64(op.b));
        let out = std::array::from_fn(|i| if first >> i & 1 != 0 { a[i] } else { b[i] });
        regs.set64(op.d, mask, &out);
    } else {
        let (a, b) = (*regs.r32(op.a), *regs.r32(op.b));
        let out = std::array::from_fn(|i| if first >> i & 1 != 0 { a[i] } else { b[i] });
        regs.set32(op.d, mask, &out);
    }
}

fn holds(regs: &Registers, slot: Slot, f: impl Fn(u32) -> bool) -> u32 {
    let value = regs.r32(slot);
    (0..LANES).fold(0, |mask, i| mask | u32::from(f(value[i])) << i)
}
