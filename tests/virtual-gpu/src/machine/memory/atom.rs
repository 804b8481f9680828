//! `atom` and `red`: one lane after the other, atomic towards every other thread of the grid.

use half::{bf16, f16};

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{LANES, W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Target, watch};
use super::decode::{self, Order, Reg, access_type, modifiers};
use super::elements::{put, take};
use super::raw;
use super::reach::{Reach, reach_global, reach_shared};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::watch::Kind;
use crate::watch::race::How;

/// What becomes of the old value and the operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Min { signed: bool },
    Max { signed: bool },
    Inc,
    Dec,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    AddF32,
    AddF64,
    AddF16,
    AddBf16,
    AddF16x2,
    AddBf16x2,
}

#[derive(Debug, Clone)]
pub struct Atom {
    at: Target,
    change: Change,
    size: u32,
    order: Order,
    /// None for `red`.
    to: Option<Reg>,
    b: Reg,
    c: Reg,
}

const OPS: [&str; 10] = ["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"];

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Atom, Refusal> {
    let all = modifiers(instruction, &OPS)?;
    let ty = access_type(instruction, &all)?;
    let form = |why: &str| Refusal::form(instruction, why);
    if all.vector != 1 {
        return Err(form("vectors of atomics are not implemented"));
    }
    let op = all.op.ok_or_else(|| form("it has no operation"))?;
    let change = change(op, ty).ok_or_else(|| form("this operation has no such type"))?;
    let half = matches!(ty, Type::F16 | Type::F16x2 | Type::BF16 | Type::BF16x2);
    if half && !all.noftz {
        return Err(form("it needs .noftz"));
    }
    let returns = usize::from(instruction.name == "atom");
    let cas = usize::from(change == Change::CompareAndSwap);
    let expected = returns + 2 + cas + usize::from(all.policy);
    if instruction.operands.len() != expected {
        return Err(form(&format!("it takes {expected} operands")));
    }
    if returns == 0 && matches!(op, "exch" | "cas") {
        return Err(form("red has no such operation"));
    }
    let operands = &instruction.operands;
    let mut reg = |operand: &Operand, written| {
        decode::registers(instruction, Some(operand), 1, ty, written, to).map(|regs| regs[0])
    };
    let old = match returns {
        0 => None,
        _ => Some(reg(&operands[0], true)?),
    };
    let b = reg(&operands[returns + 1], false)?;
    let c = reg(&operands[returns + 1 + cas], false)?;
    let at = decode::target(instruction, operands.get(returns), all.space, to)?;
    if !matches!(at.place, Place::Global | Place::Shared | Place::Generic) {
        return Err(form("only global and shared memory have atomics"));
    }
    Ok(Atom { at, change, size: ty.bytes(), order: all.order, to: old, b, c })
}

fn change(op: &str, ty: Type) -> Option<Change> {
    use Type::*;
    let signed = ty.is_signed();
    Some(match (op, ty) {
        ("add", U32 | S32 | U64 | S64) => Change::Add,
        ("add", F32) => Change::AddF32,
        ("add", F64) => Change::AddF64,
        ("add", F16) => Change::AddF16,
        ("add", BF16) => Change::AddBf16,
        ("add", F16x2) => Change::AddF16x2,
        ("add", BF16x2) => Change::AddBf16x2,
        ("min", U32 | S32 | U64 | S64) => Change::Min { signed },
        ("max", U32 | S32 | U64 | S64) => Change::Max { signed },
        ("inc", U32) => Change::Inc,
        ("dec", U32) => Change::Dec,
        ("and", B32 | B64) => Change::And,
        ("or", B32 | B64) => Change::Or,
        ("xor", B32 | B64) => Change::Xor,
        ("exch", B32 | B64 | U32 | S32 | U64 | S64 | F32 | F64) => Change::Exchange,
        ("cas", B16 | B32 | B64 | U32 | S32 | U64 | S64) => Change::CompareAndSwap,
        _ => return None,
    })
}

pub fn exec(op: &Atom, exec: &mut Exec) -> Result<(), Fault> {
    op.order.before(exec);
    op.at.for_parts(op, exec, part)?;
    op.order.after();
    Ok(())
}

fn part(op: &Atom, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    let reach = match part.place {
        Place::Global | Place::Generic => reach_global(exec, part, op.size, Act::Atomic)?,
        Place::Shared => reach_shared(exec, part, op.size, Act::Atomic)?,
        Place::Local | Place::Param => return Err(no_atomics(part)),
    };
    watch(exec, part, op.size, How::Atomic, true);
    let b = take(&exec.regs, op.b);
    let c = take(&exec.regs, op.c);
    let old = match op.size {
        2 => all_lanes::<2>(op, part, &reach, &b, &c),
        4 => all_lanes::<4>(op, part, &reach, &b, &c),
        _ => all_lanes::<8>(op, part, &reach, &b, &c),
    };
    if let Some(to) = op.to {
        put(&mut exec.regs, part.mask, to, op.size, false, &old);
    }
    Ok(())
}

#[cold]
fn no_atomics(part: &Part) -> Fault {
    let (lane, space) = (part.first(), part.place.words());
    let detail =
        format!("atomic access at {space}{:#x}: that space has none", part.addresses[lane]);
    Fault { kind: Kind::IllegalInstruction, lane, detail }
}

/// The old values.
fn all_lanes<const S: usize>(op: &Atom, part: &Part, reach: &Reach, b: &W64, c: &W64) -> W64 {
    let mut old = [0; LANES];
    // SAFETY: `reach` comes from a check of `S` bytes a lane at multiples of `S`, for all that follows.
    unsafe {
        if let (Reach::Same(at), Change::Add) = (reach, op.change) {
            // What lane after lane would give, with one atomic instead of 32.
            let mut sum = 0_u64;
            for lane in lanes(part.mask) {
                old[lane] = sum;
                sum = sum.wrapping_add(b[lane]);
            }
            let before = raw::add::<S>(*at, sum);
            return old.map(|sum| before.wrapping_add(sum));
        }
        let shared = part.place == Place::Shared;
        for lane in lanes(part.mask) {
            let at = reach.lane(part, S, lane);
            let (b, c) = (b[lane], c[lane]);
            old[lane] = if shared {
                // A block runs on one host thread: nobody comes in between.
                let old = raw::load::<S>(at);
                raw::store::<S>(at, apply::<S>(op.change, old, b, c, false));
                old
            } else if op.change == Change::Add {
                raw::add::<S>(at, b)
            } else {
                raw::update::<S>(at, |old| apply::<S>(op.change, old, b, c, true))
            };
        }
    }
    old
}

/// The new value, in the low `S` bytes.
#[inline(always)]
fn apply<const S: usize>(change: Change, old: u64, b: u64, c: u64, global: bool) -> u64 {
    let wide = |x: u64| if S == 4 { i64::from(x as u32 as i32) } else { x as i64 };
    let own = |x: u64| if S == 8 { x } else { x & ((1 << (8 * S)) - 1) };
    match change {
        Change::Add => old.wrapping_add(b),
        Change::Min { signed: true } => wide(old).min(wide(b)) as u64,
        Change::Max { signed: true } => wide(old).max(wide(b)) as u64,
        Change::Min { signed: false } => old.min(own(b)),
        Change::Max { signed: false } => old.max(own(b)),
        Change::Inc => {
            if old >= own(b) {
                0
            } else {
                old + 1
            }
        }
        Change::Dec => {
            if old == 0 || old > own(b) {
                b
            } else {
                old - 1
            }
        }
        Change::And => old & b,
        Change::Or => old | b,
        Change::Xor => old ^ b,
        Change::Exchange => b,
        Change::CompareAndSwap => {
            if old == own(b) {
                c
            } else {
                old
            }
        }
        Change::AddF32 => u64::from(add_f32(old as u32, b as u32, global)),
        Change::AddF64 => {
            let sum = f64::from_bits(old) + f64::from_bits(b);
            if sum.is_nan() { 0x7FFF_FFFF_FFFF_FFFF } else { sum.to_bits() }
        }
        Change::AddF16 => add_f16(old, b),
        Change::AddBf16 => add_bf16(old, b),
        Change::AddF16x2 => add_f16(old, b) | add_f16(old >> 16, b >> 16) << 16,
        Change::AddBf16x2 => add_bf16(old, b) | add_bf16(old >> 16, b >> 16) << 16,
    }
}

/// In global memory subnormal numbers count as zeros of their sign, in shared memory they do not (PTX
/// manual, atom: floating point operation).
fn add_f32(a: u32, b: u32, global: bool) -> u32 {
    let flush = |x: u32| if global && x & 0x7F80_0000 == 0 { x & 0x8000_0000 } else { x };
    let sum = f32::from_bits(flush(a)) + f32::from_bits(flush(b));
    if sum.is_nan() { 0x7FFF_FFFF } else { flush(sum.to_bits()) }
}

/// Rounded once: f32 holds more than twice the digits of either, so rounding twice changes nothing.
fn add_f16(a: u64, b: u64) -> u64 {
    let sum = f16::from_bits(a as u16).to_f32() + f16::from_bits(b as u16).to_f32();
    u64::from(if sum.is_nan() { 0x7FFF } else { f16::from_f32(sum).to_bits() })
}

fn add_bf16(a: u64, b: u64) -> u64 {
    let sum = bf16::from_bits(a as u16).to_f32() + bf16::from_bits(b as u16).to_f32();
    u64::from(if sum.is_nan() { 0x7FFF } else { bf16::from_f32(sum).to_bits() })
}
