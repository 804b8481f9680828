//! The common conversions, a whole warp at a time, in loops that the compiler vectorises.

use super::{Form, Op, Run};
use crate::machine::arith::Round;
use crate::machine::arith::half::{Bf16, F16, Half};
use crate::machine::arith::single::{self, flush};
use crate::machine::registers::{LANES, Registers};
use crate::ptx::ast::Type;

/// The function for a form with registers of these widths, if there is a fast one.
pub(super) fn choose(form: &Form, a_bytes: u32, d_bytes: u32) -> Option<Run> {
    let (from, to) = (form.from, form.to);
    let plain = !form.sat && !form.relu && !form.satfinite;
    match (from.is_float(), to.is_float()) {
        (false, false) if !form.sat => integers(form, a_bytes, d_bytes),
        (false, true) if plain && form.round == Round::Nearest && d_bytes == to.bytes() => {
            from_integer(form, a_bytes)
        }
        (true, false) if a_bytes == from.bytes() && d_bytes == to.bytes() => to_integer(form),
        (true, true) if a_bytes <= 4 && d_bytes <= 4 => floats(form),
        (true, true) if plain && !form.ftz && form.round == Round::Nearest => {
            doubles(form, a_bytes, d_bytes)
        }
        _ => None,
    }
}

fn integers(form: &Form, a_bytes: u32, d_bytes: u32) -> Option<Run> {
    let (from, to) = (form.from, form.to);
    Some(match (a_bytes, d_bytes) {
        // The upper half of the result is above what the source says about it: extend from the source.
        (..=4, 8) if from.bytes() == 4 && to.bytes() == 8 && !from.is_signed() => {
            |op, regs, mask| widen(op, regs, mask, u64::from)
        }
        (..=4, 8) if from.bytes() == 4 && to.bytes() == 8 => {
            |op, regs, mask| widen(op, regs, mask, |x| x as i32 as i64 as u64)
        }
        (8, 4) if from.bytes() == 8 && to.bytes() == 4 => {
            |op, regs, mask| narrow(op, regs, mask, |x| x as u32)
        }
        (..=4, ..=4) => extend_small,
        _ => return None,
    })
}

/// Between registers of up to 32 bits: cut the source, extend it, cut the result, extend it.
fn extend_small(op: &Op, regs: &mut Registers, mask: u32) {
    let up = |bytes: u32| 32 - 8 * bytes.min(4);
    let (i, o, own) = (up(op.form.from.bytes()), up(op.form.to.bytes()), up(op.d.bytes));
    let (in_signed, out_signed) = (op.form.from.is_signed(), op.form.to.is_signed());
    let (d, a) = (op.d.slot, op.a.slot);
    let zero = |x: u32, by: u32| x << by >> by;
    let sign = |x: u32, by: u32| ((x << by) as i32 >> by) as u32;
    match (in_signed, out_signed) {
        (false, false) => regs.map32(mask, d, a, |x| zero(zero(x, i), o)),
        (true, false) => regs.map32(mask, d, a, |x| zero(sign(x, i), o)),
        (false, true) => regs.map32(mask, d, a, |x| zero(sign(zero(x, i), o), own)),
        (true, true) => regs.map32(mask, d, a, |x| zero(sign(sign(x, i), o), own)),
    }
}

fn from_integer(form: &Form, a_bytes: u32) -> Option<Run> {
    let (from, to) = (form.from, form.to);
    if a_bytes != from.bytes() {
        return None;
    }
    Some(match (from, to) {
        (Type::S32, Type::F32) => {
            |op, regs, mask| regs.map32(mask, op.d.slot, op.a.slot, |x| (x as i32 as f32).to_bits())
        }
        (Type::U32 | Type::U16 | Type::U8, Type::F32) => {
            |op, regs, mask| regs.map32(mask, op.d.slot, op.a.slot, |x| (x as f32).to_bits())
        }
        (Type::S16, Type::F32) => |op, regs, mask| {
            regs.map32(mask, op.d.slot, op.a.slot, |x| f32::from(x as i16).to_bits())
        },
        (Type::S8, Type::F32) => |op, regs, mask| {
            regs.map32(mask, op.d.slot, op.a.slot, |x| f32::from(x as i8).to_bits())
        },
        (Type::S64, Type::F32) => {
            |op, regs, mask| narrow(op, regs, mask, |x| (x as i64 as f32).to_bits())
        }
        (Type::U64, Type::F32) => |op, regs, mask| narrow(op, regs, mask, |x| (x as f32).to_bits()),
        (Type::S32, Type::F64) => {
            |op, regs, mask| widen(op, regs, mask, |x| f64::from(x as i32).to_bits())
        }
        (Type::U32, Type::F64) => {
            |op, regs, mask| widen(op, regs, mask, |x| f64::from(x).to_bits())
        }
        (Type::S64, Type::F64) => {
            |op, regs, mask| regs.map64(mask, op.d.slot, op.a.slot, |x| (x as i64 as f64).to_bits())
        }
        (Type::U64, Type::F64) => {
            |op, regs, mask| regs.map64(mask, op.d.slot, op.a.slot, |x| (x as f64).to_bits())
        }
        _ => return None,
    })
}

/// f32 to an integer of the register's width.
fn to_integer(form: &Form) -> Option<Run> {
    Some(match (form.from, form.to) {
        (Type::F32, Type::S32) => {
            |op, regs, mask| whole32(op, regs, mask, |x| small(x, -2147483648.0, 2147483647.0))
        }
        (Type::F32, Type::U32) => {
            |op, regs, mask| whole32(op, regs, mask, |x| small(x, 0.0, 4294967295.0))
        }
        (Type::F32, Type::U16) => {
            |op, regs, mask| whole32(op, regs, mask, |x| small(x, 0.0, 65535.0))
        }
        (Type::F32, Type::S64) => |op, regs, mask| {
            whole64(op, regs, mask, |x| if x.is_nan() { 1 << 63 } else { x as i64 as u64 })
        },
        (Type::F32, Type::U64) => |op, regs, mask| {
            whole64(op, regs, mask, |x| if x.is_nan() { 1 << 63 } else { x as u64 })
        },
        _ => return None,
    })
}

/// A whole number limited to a range of 32 bits, as an integer; NaN gives 0. As `as` does it, but without
/// its branches: in 1.5 · 2^52 and more, the lowest bits of an f64 are the integer.
#[inline(always)]
fn small(x: f32, low: f64, high: f64) -> u32 {
    let limited = f64::from(x).max(low).min(high);
    let bits = (limited + 6755399441055744.0).to_bits() as u32;
    if x.is_nan() { 0 } else { bits }
}

#[inline(always)]
fn whole32(op: &Op, regs: &mut Registers, mask: u32, f: impl Fn(f32) -> u32) {
    let (d, a, ftz) = (op.d.slot, op.a.slot, op.form.ftz);
    let x = |bits| f32::from_bits(if ftz { flush(bits) } else { bits });
    match op.form.round {
        Round::Zero => regs.map32(mask, d, a, |bits| f(x(bits).trunc())),
        Round::Down => regs.map32(mask, d, a, |bits| f(x(bits).floor())),
        Round::Up => regs.map32(mask, d, a, |bits| f(x(bits).ceil())),
        _ => regs.map32(mask, d, a, |bits| f(x(bits).round_ties_even())),
    }
}

#[inline(always)]
fn whole64(op: &Op, regs: &mut Registers, mask: u32, f: impl Fn(f32) -> u64) {
    let ftz = op.form.ftz;
    let x = |bits| f32::from_bits(if ftz { flush(bits) } else { bits });
    match op.form.round {
        Round::Zero => widen(op, regs, mask, |bits| f(x(bits))),
        Round::Down => widen(op, regs, mask, |bits| f(x(bits).floor())),
        Round::Up => widen(op, regs, mask, |bits| f(x(bits).ceil())),
        _ => widen(op, regs, mask, |bits| f(x(bits).round_ties_even())),
    }
}

#[inline(always)]
fn widen(op: &Op, regs: &mut Registers, mask: u32, f: impl Fn(u32) -> u64) {
    // Loops: `map` of an array is not vectorised.
    let (a, mut out) = (*regs.r32(op.a.slot), [0; LANES]);
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    regs.set64(op.d.slot, mask, &out);
}

#[inline(always)]
fn narrow(op: &Op, regs: &mut Registers, mask: u32, f: impl Fn(u64) -> u32) {
    let (a, mut out) = (*regs.r64(op.a.slot), [0; LANES]);
    for i in 0..LANES {
        out[i] = f(a[i]);
    }
    regs.set32(op.d.slot, mask, &out);
}

/// Between formats of up to 32 bits, to nearest.
fn floats(form: &Form) -> Option<Run> {
    use Type::{BF16, BF16x2, F16, F16x2, F32};
    let Form { ftz, sat, relu, satfinite, round, integer, .. } = *form;
    let plain = !sat && !satfinite;
    Some(match (form.from, form.to) {
        (F16, F32) if plain => {
            |op, regs, mask| each(op, regs, mask, |x| self::F16::to_f32(x & 0xFFFF))
        }
        (BF16, F32) if plain && !ftz => {
            |op, regs, mask| each(op, regs, mask, |x| Bf16::to_f32(x & 0xFFFF))
        }
        (F32, F16) if plain && round == Round::Nearest => {
            |op, regs, mask| from_f32::<self::F16>(op, regs, mask)
        }
        (F32, BF16) if plain && round == Round::Nearest => {
            |op, regs, mask| from_f32::<Bf16>(op, regs, mask)
        }
        (F32, F16x2) if plain && round == Round::Nearest => {
            |op, regs, mask| pair::<self::F16>(op, regs, mask)
        }
        (F32, BF16x2) if plain && round == Round::Nearest => {
            |op, regs, mask| pair::<Bf16>(op, regs, mask)
        }
        (F32, F32) if integer && !sat && !relu => |op, regs, mask| {
            whole32(op, regs, mask, single::bits);
        },
        (F32, F32) if !integer => |op, regs, mask| {
            let Form { ftz, sat, .. } = op.form;
            each(op, regs, mask, |x| {
                let x = if single::is_nan(x) { single::NAN } else { x };
                let x = if ftz { flush(x) } else { x };
                if sat { single::saturate(x) } else { x }
            });
        },
        _ => return None,
    })
}

#[inline(always)]
fn each(op: &Op, regs: &mut Registers, mask: u32, f: impl Fn(u32) -> u32) {
    regs.map32(mask, op.d.slot, op.a.slot, f);
}

fn from_f32<H: Half>(op: &Op, regs: &mut Registers, mask: u32) {
    match (op.form.ftz, op.form.relu) {
        (false, false) => each(op, regs, mask, H::from_f32),
        (true, false) => each(op, regs, mask, |x| H::from_f32(flush(x))),
        (ftz, true) => {
            each(op, regs, mask, |x| H::relu(H::from_f32(if ftz { flush(x) } else { x })))
        }
    }
}

/// `d, a, b`: a becomes the upper half.
fn pair<H: Half>(op: &Op, regs: &mut Registers, mask: u32) {
    let (d, a, b) = (op.d.slot, op.a.slot, op.b);
    match op.form.relu {
        false => regs.map32x2(mask, d, a, b, |a, b| H::from_f32(a) << 16 | H::from_f32(b)),
        true => regs
            .map32x2(mask, d, a, b, |a, b| H::relu(H::from_f32(a)) << 16 | H::relu(H::from_f32(b))),
    }
}

fn doubles(form: &Form, a_bytes: u32, d_bytes: u32) -> Option<Run> {
    if form.integer {
        return None;
    }
    Some(match (form.from, form.to, a_bytes, d_bytes) {
        (Type::F64, Type::F32, 8, 4) => {
            |op, regs, mask| narrow(op, regs, mask, |x| single::bits(f64::from_bits(x) as f32))
        }
        (Type::F32, Type::F64, 4, 8) => |op, regs, mask| {
            widen(op, regs, mask, |x| {
                let quiet =
                    0x7FF8 << 48 | u64::from(x >> 31) << 63 | u64::from(x & 0x7F_FFFF) << 29;
                if single::is_nan(x) { quiet } else { f64::from(f32::from_bits(x)).to_bits() }
            })
        },
        _ => return None,
    })
}
