//! cvt: conversions between all types, and cvt.pack (PTX manual 9.7.9.21 and 9.7.9.22).
//!
//! `scalar` converts any value of any type exactly, one at a time; `fast` has the common conversions for a
//! whole warp. `lower` takes the fast one where there is one.

mod fast;
mod lower;
mod scalar;

#[cfg(test)]
mod tests;

use super::arith::Round;
use super::registers::{LANES, Registers, Slot, lanes};
use crate::ptx::ast::Type;

pub use lower::lower;

/// A conversion.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    run: Run,
    d: Register,
    a: Register,
    /// The second operand of the packed forms, otherwise `a` again; `c` is cvt.pack's third.
    b: Slot,
    c: Slot,
    form: Form,
}

/// Executes a conversion in the lanes of a mask.
type Run = fn(&Op, &mut Registers, u32);

/// A register that may be wider than the type it is read or written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Register {
    slot: Slot,
    /// As declared: 1, 2, 4 or 8.
    bytes: u32,
}

impl Register {
    fn wide(self) -> bool {
        self.bytes == 8
    }
}

/// What the modifiers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    to: Type,
    from: Type,
    round: Round,
    /// The rounding is to an integer: `.rni`, `.rzi`, `.rmi`, `.rpi`.
    integer: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: bool,
    /// The bits of a field of cvt.pack.
    field: u32,
}

#[inline]
pub fn exec(op: &Op, regs: &mut Registers, mask: u32) {
    (op.run)(op, regs, mask);
}

/// Any conversion of one operand, lane by lane.
fn one_by_one(op: &Op, regs: &mut Registers, mask: u32) {
    let a = read(regs, op.a);
    let mut out = [0; LANES];
    for lane in lanes(mask) {
        out[lane] = scalar::widened(scalar::convert(a[lane], &op.form), op.form.to, op.d.bytes);
    }
    write(regs, op.d, mask, &out);
}

/// Any packed conversion, lane by lane.
fn packed(op: &Op, regs: &mut Registers, mask: u32) {
    let (a, b) = (*regs.r32(op.a.slot), *regs.r32(op.b));
    let mut out = [0; LANES];
    for lane in lanes(mask) {
        out[lane] = u64::from(scalar::packed(a[lane], b[lane], &op.form));
    }
    write(regs, op.d, mask, &out);
}

/// `cvt.pack.sat`
fn pack(op: &Op, regs: &mut Registers, mask: u32) {
    let (field, signed) = (op.form.field, op.form.to.is_signed());
    let operands = [op.a.slot, op.b, op.c];
    regs.map32x3(mask, op.d.slot, operands, |a, b, c| {
        let fields = [a, b].map(|x| scalar::pack_field(x, field, signed));
        let low = fields[0] << field | fields[1];
        if field == 16 { low } else { c << (2 * field) | low }
    });
}

/// A register's lanes, zero-extended.
fn read(regs: &Registers, register: Register) -> [u64; LANES] {
    match register.wide() {
        true => *regs.r64(register.slot),
        false => regs.r32(register.slot).map(u64::from),
    }
}

fn write(regs: &mut Registers, register: Register, mask: u32, value: &[u64; LANES]) {
    match register.wide() {
        true => regs.set64(register.slot, mask, value),
        false => regs.set32(register.slot, mask, &value.map(|x| x as u32)),
    }
}
