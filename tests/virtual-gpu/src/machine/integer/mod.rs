//! Integer, bit and logic instructions.
//!
//! A form of an instruction (`add.s32`, `shf.l.wrap.b32`) is decoded once, at load, into the function that
//! runs it over the lanes of a warp: executing is one indirect call and then loops over 32 lanes without a
//! branch. The files are the chapters of the PTX manual: arithmetic, multiplication, extended precision
//! (`carry`), bit fields, logic and shifts, packed values.

mod arithmetic;
mod bits;
mod carry;
mod constant;
mod dot;
mod logic;
mod multiply;
mod packed;

use super::lower::{Lowering, Refusal};
use super::registers::{Pred, Registers, Slot};
use crate::ptx::ast::{Instruction, Operand, Type};

/// An instruction of this family.
#[derive(Debug, Clone, Copy)]
pub enum Op {
    /// From registers to a register.
    Lanes { run: Run, args: Args },
    /// With the carry flag of every lane, which is a predicate of the frame.
    Carry { run: carry::Run, args: Args, carry: Pred },
    /// Between predicates.
    Predicate(logic::Predicate),
    /// `lop3` that also says whether its result is other than zero.
    Lop3 { args: Args, test: logic::Test },
}

/// Runs one form in the lanes of the mask.
type Run = fn(&mut Registers, &Args, u32);

/// The destination, up to four sources in the order written, and a number that was an immediate.
#[derive(Debug, Clone, Copy)]
pub struct Args {
    d: Slot,
    a: Slot,
    b: Slot,
    c: Slot,
    e: Slot,
    n: u32,
}

/// A form: what runs it, and as what its operands are read and written.
struct Form {
    run: Run,
    d: Type,
    sources: &'static [Type],
}

fn form(d: Type, sources: &'static [Type], run: Run) -> Option<Form> {
    Some(Form { run, d, sources })
}

/// Forms whose operands are all of one type: `same::<2>(Type::B32, ..)` for two sources.
fn same<const N: usize>(ty: Type, run: Run) -> Option<Form> {
    let sources: &'static [Type] = match ty.bytes() {
        2 => &[Type::B16; N],
        8 => &[Type::B64; N],
        _ => &[Type::B32; N],
    };
    form(ty, sources, run)
}

/// Names whose integer forms, all of them, are here.
const NAMES: [&str; 38] = [
    "abs",
    "add",
    "addc",
    "and",
    "bfe",
    "bfi",
    "bfind",
    "bmsk",
    "brev",
    "clz",
    "cnot",
    "div",
    "dp2a",
    "dp4a",
    "fns",
    "lop3",
    "mad",
    "mad24",
    "madc",
    "max",
    "min",
    "mul",
    "mul24",
    "neg",
    "not",
    "or",
    "popc",
    "prmt",
    "rem",
    "sad",
    "shf",
    "shl",
    "shr",
    "sub",
    "subc",
    "szext",
    "vabsdiff4",
    "xor",
];

/// Decodes an instruction of this family; `None` for one of another (`add.f32`).
pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    let (name, modifiers) = (instruction.name, instruction.modifiers.as_slice());
    let Some(&last) = modifiers.last() else { return Ok(None) };
    let of_floats = Type::from_name(last).is_some_and(Type::is_float);
    if of_floats || !NAMES.contains(&name) {
        return Ok(None);
    }
    if last == "pred" {
        return logic::predicate(instruction, to).map(Some);
    }
    if let Some(op) = carry::lower(instruction, to)? {
        return Ok(Some(op));
    }
    if name == "lop3" {
        return logic::lop3(instruction, to).map(Some);
    }
    let form = arithmetic::form_of(name, modifiers)
        .or_else(|| multiply::form_of(name, modifiers))
        .or_else(|| logic::form_of(name, modifiers))
        .or_else(|| bits::form_of(name, modifiers))
        .or_else(|| dot::form_of(name, modifiers))
        .or_else(|| packed::form_of(name, modifiers))
        .ok_or_else(|| Refusal::form(instruction, "the machine does not know this form"))?;
    let mut args = args(instruction, to, form.d, form.sources)?;
    let mut run = form.run;
    if let Some((faster, n)) = constant::form_of(instruction) {
        (run, args.n) = (faster, n);
    }
    Ok(Some(Op::Lanes { run, args }))
}

/// The slots of `d, a, b, ..`, as many sources as there are types.
fn args(
    instruction: &Instruction,
    to: &mut Lowering,
    d: Type,
    sources: &[Type],
) -> Result<Args, Refusal> {
    let Some((first, rest)) = instruction.operands.split_first() else {
        return Err(Refusal::form(instruction, "has no operands"));
    };
    if rest.len() != sources.len() {
        let why = format!("takes {} sources, has {}", sources.len(), rest.len());
        return Err(Refusal::form(instruction, &why));
    }
    args_of(first, rest, to, d, sources)
}

fn args_of(
    first: &Operand,
    rest: &[Operand],
    to: &mut Lowering,
    d: Type,
    sources: &[Type],
) -> Result<Args, Refusal> {
    let d = to.dst(first, d)?;
    let mut slots = [d; 4];
    for ((slot, operand), ty) in slots.iter_mut().zip(rest).zip(sources) {
        *slot = to.src(operand, *ty)?;
    }
    let [a, b, c, e] = slots;
    Ok(Args { d, a, b, c, e, n: 0 })
}

/// Executes in the lanes of `mask`.
#[inline]
pub fn exec(op: &Op, regs: &mut Registers, mask: u32) {
    match op {
        Op::Lanes { run, args } => run(regs, args, mask),
        Op::Carry { run, args, carry } => run(regs, args, *carry, mask),
        Op::Predicate(op) => logic::exec_predicate(op, regs, mask),
        Op::Lop3 { args, test } => logic::exec_lop3(args, test, regs, mask),
    }
}

// The loops that `Registers` has no name for: operands of different widths.

/// 64 bits from three sources of which only the last is wide.
#[inline(always)]
fn widen3(r: &mut Registers, x: &Args, mask: u32, f: impl Fn(u32, u32, u64) -> u64) {
    let (a, b, c) = (*r.r32(x.a), *r.r32(x.b), *r.r64(x.c));
    r.set64(x.d, mask, &std::array::from_fn(|i| f(a[i], b[i], c[i])));
}

/// 64 bits from two sources of 32.
#[inline(always)]
fn widen2(r: &mut Registers, x: &Args, mask: u32, f: impl Fn(u32, u32) -> u64) {
    let (a, b) = (*r.r32(x.a), *r.r32(x.b));
    r.set64(x.d, mask, &std::array::from_fn(|i| f(a[i], b[i])));
}

/// 32 bits from 64.
#[inline(always)]
fn narrow(r: &mut Registers, x: &Args, mask: u32, f: impl Fn(u64) -> u32) {
    let a = *r.r64(x.a);
    r.set32(x.d, mask, &std::array::from_fn(|i| f(a[i])));
}

/// 64 bits from 64 and a count of 32.
#[inline(always)]
fn shift64(r: &mut Registers, x: &Args, mask: u32, f: impl Fn(u64, u32) -> u64) {
    let (a, b) = (*r.r64(x.a), *r.r32(x.b));
    r.set64(x.d, mask, &std::array::from_fn(|i| f(a[i], b[i])));
}
