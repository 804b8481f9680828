//! add.cc, addc, sub.cc, subc, mad.cc, madc (PTX manual, "Extended-Precision Arithmetic Instructions").
//!
//! The condition code register has one bit, the carry (of a subtraction: the borrow), and is an implicit
//! operand. Here it is a predicate of the function's frame: it does not outlive a call, as the manual says.

use super::multiply::{high_s32, high_s64, high_u32, high_u64};
use super::{Args, Op, args};
use crate::machine::lower::{Lowering, Refusal};
use crate::machine::registers::{LANES, Pred, Registers, W32, W64};
use crate::ptx::ast::{Instruction, Type};

/// Runs one form with the carry in a predicate.
pub type Run = fn(&mut Registers, &Args, Pred, u32);

/// Of `Args::n`: the carry is added (of a subtraction: subtracted), and it is written.
const READS: u32 = 1;
const WRITES: u32 = 2;

/// The instructions that read or write the carry; `None` for all others.
pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    let reads = matches!(instruction.name, "addc" | "subc" | "madc");
    let writes = instruction.modifiers.contains(&"cc");
    if !reads && !writes {
        return Ok(None);
    }
    let rest: Vec<&str> = instruction.modifiers.iter().copied().filter(|m| *m != "cc").collect();
    let name = instruction.name.strip_suffix('c').unwrap_or(instruction.name);
    let (run, sources): (Run, _) = match (name, rest.as_slice()) {
        ("add", ["u32" | "s32"]) => (add32, [Type::B32].repeat(2)),
        ("add", ["u64" | "s64"]) => (add64, [Type::B64].repeat(2)),
        ("sub", ["u32" | "s32"]) => (sub32, [Type::B32].repeat(2)),
        ("sub", ["u64" | "s64"]) => (sub64, [Type::B64].repeat(2)),
        ("mad", ["lo", "u32" | "s32"]) => (mad_lo32, [Type::B32].repeat(3)),
        ("mad", ["hi", "u32"]) => (mad_hi_u32, [Type::B32].repeat(3)),
        ("mad", ["hi", "s32"]) => (mad_hi_s32, [Type::B32].repeat(3)),
        ("mad", ["lo", "u64" | "s64"]) => (mad_lo64, [Type::B64].repeat(3)),
        ("mad", ["hi", "u64"]) => (mad_hi_u64, [Type::B64].repeat(3)),
        ("mad", ["hi", "s64"]) => (mad_hi_s64, [Type::B64].repeat(3)),
        _ => return Err(Refusal::form(instruction, "the machine does not know this form")),
    };
    let mut args = args(instruction, to, sources[0], &sources)?;
    args.n = u32::from(reads) * READS + u32::from(writes) * WRITES;
    Ok(Some(Op::Carry { run, args, carry: to.carry() }))
}

fn add32(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    let (a, b) = (*r.r32(x.a), *r.r32(x.b));
    finish32(r, x, carry, mask, |i, carry| u64::from(a[i]) + u64::from(b[i]) + carry);
}

fn sub32(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    let (a, b) = (*r.r32(x.a), *r.r32(x.b));
    finish32(r, x, carry, mask, |i, carry| {
        u64::from(a[i]).wrapping_sub(u64::from(b[i])).wrapping_sub(carry)
    });
}

fn mad_lo32(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad32(r, x, carry, mask, u32::wrapping_mul);
}

fn mad_hi_u32(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad32(r, x, carry, mask, high_u32);
}

fn mad_hi_s32(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad32(r, x, carry, mask, high_s32);
}

#[inline(always)]
fn mad32(r: &mut Registers, x: &Args, carry: Pred, mask: u32, product: impl Fn(u32, u32) -> u32) {
    let (a, b, c) = (*r.r32(x.a), *r.r32(x.b), *r.r32(x.c));
    finish32(r, x, carry, mask, |i, carry| {
        u64::from(product(a[i], b[i])) + u64::from(c[i]) + carry
    });
}

/// Writes the lower 32 bits of what `f(lane, carry)` gives, and bit 32 as the new carry.
#[inline(always)]
fn finish32(r: &mut Registers, x: &Args, carry: Pred, mask: u32, f: impl Fn(usize, u64) -> u64) {
    let carries = if x.n & READS != 0 { r.pred(carry) } else { 0 };
    let (mut out, mut new): (W32, u32) = ([0; LANES], 0);
    for (i, out) in out.iter_mut().enumerate() {
        let sum = f(i, u64::from(carries >> i & 1));
        *out = sum as u32;
        new |= ((sum >> 32) as u32 & 1) << i;
    }
    r.set32(x.d, mask, &out);
    if x.n & WRITES != 0 {
        r.set_pred(carry, mask, new);
    }
}

fn add64(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    let (a, b) = (*r.r64(x.a), *r.r64(x.b));
    finish64(r, x, carry, mask, |i, carry| u128::from(a[i]) + u128::from(b[i]) + carry);
}

fn sub64(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    let (a, b) = (*r.r64(x.a), *r.r64(x.b));
    finish64(r, x, carry, mask, |i, carry| {
        u128::from(a[i]).wrapping_sub(u128::from(b[i])).wrapping_sub(carry)
    });
}

fn mad_lo64(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad64(r, x, carry, mask, u64::wrapping_mul);
}

fn mad_hi_u64(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad64(r, x, carry, mask, high_u64);
}

fn mad_hi_s64(r: &mut Registers, x: &Args, carry: Pred, mask: u32) {
    mad64(r, x, carry, mask, high_s64);
}

#[inline(always)]
fn mad64(r: &mut Registers, x: &Args, carry: Pred, mask: u32, product: impl Fn(u64, u64) -> u64) {
    let (a, b, c) = (*r.r64(x.a), *r.r64(x.b), *r.r64(x.c));
    finish64(r, x, carry, mask, |i, carry| {
        u128::from(product(a[i], b[i])) + u128::from(c[i]) + carry
    });
}

#[inline(always)]
fn finish64(r: &mut Registers, x: &Args, carry: Pred, mask: u32, f: impl Fn(usize, u128) -> u128) {
    let carries = if x.n & READS != 0 { r.pred(carry) } else { 0 };
    let (mut out, mut new): (W64, u32) = ([0; LANES], 0);
    for (i, out) in out.iter_mut().enumerate() {
        let sum = f(i, u128::from(carries >> i & 1));
        *out = sum as u64;
        new |= ((sum >> 64) as u32 & 1) << i;
    }
    r.set64(x.d, mask, &out);
    if x.n & WRITES != 0 {
        r.set_pred(carry, mask, new);
    }
}
