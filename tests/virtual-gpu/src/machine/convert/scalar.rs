//! One value from any type to any other, by exact arithmetic.

use super::Form;
use crate::machine::arith::Round;
use crate::machine::arith::soft::{self, Format, Number, Value};
use crate::machine::arith::{double, single};
use crate::ptx::ast::Type;

/// The format of a floating point type, or of a half of a packed one.
pub(super) fn format(ty: Type) -> Option<Format> {
    Some(match ty {
        Type::F64 => soft::F64,
        Type::F32 => soft::F32,
        Type::F16 | Type::F16x2 => soft::F16,
        Type::BF16 | Type::BF16x2 => soft::BF16,
        Type::TF32 => soft::TF32,
        Type::E4M3x2 => soft::E4M3,
        Type::E5M2x2 => soft::E5M2,
        _ => return None,
    })
}

/// The low `bits` of x, sign- or zero-extended.
pub(super) fn extended(x: u64, bits: u32, signed: bool) -> u64 {
    let up = 64 - bits;
    if signed { ((x << up) as i64 >> up) as u64 } else { x << up >> up }
}

/// A result in a register that may be wider than its type: sign-extended if signed.
pub(super) fn widened(x: u64, ty: Type, register_bytes: u32) -> u64 {
    let bits = ty.bytes() * 8;
    extended(extended(x, bits, ty.is_signed()), register_bytes.max(ty.bytes()) * 8, false)
}

/// `cvt` of one value; what lies above the source type's width is not looked at.
pub(super) fn convert(bits: u64, form: &Form) -> u64 {
    match (format(form.from), format(form.to)) {
        (Some(from), Some(to)) if form.to == Type::TF32 => {
            let out = float_to_float(bits, &from, &to, form);
            // The canonical NaN has all bits of its register.
            if out == to.nan { soft::F32.nan } else { out << soft::TF32_SHIFT }
        }
        (Some(from), Some(to)) => float_to_float(bits, &from, &to, form),
        (Some(from), None) => float_to_integer(bits, &from, form),
        (None, Some(to)) => integer_to_float(bits, &to, form),
        (None, None) => integer_to_integer(bits, form),
    }
}

fn range(ty: Type) -> (i128, i128) {
    let bits = ty.bytes() * 8;
    match ty.is_signed() {
        true => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => (0, (1 << bits) - 1),
    }
}

fn integer(bits: u64, ty: Type) -> i128 {
    let x = extended(bits, ty.bytes() * 8, ty.is_signed());
    if ty.is_signed() { i128::from(x as i64) } else { i128::from(x) }
}

fn integer_to_integer(bits: u64, form: &Form) -> u64 {
    let x = integer(bits, form.from);
    let (low, high) = range(form.to);
    let x = if form.sat { x.clamp(low, high) } else { x };
    extended(x as u64, form.to.bytes() * 8, false)
}

fn integer_to_float(bits: u64, to: &Format, form: &Form) -> u64 {
    let x = integer(bits, form.from);
    let number = Number { negative: x < 0, mantissa: x.unsigned_abs(), exponent: 0 };
    limited(soft::round(number, to, form.round), to, form)
}

fn float_to_integer(bits: u64, from: &Format, form: &Form) -> u64 {
    let (low, high) = range(form.to);
    let width = form.to.bytes() * 8;
    let x = match soft::unpack(input(bits, from, form), from) {
        // Zero, but where a 64-bit type takes part (PTX manual 9.7.9.21).
        Value::Nan if form.from != Type::F64 && width != 64 => 0,
        Value::Nan => 1 << (width - 1),
        Value::Infinity(negative) => {
            if negative {
                low
            } else {
                high
            }
        }
        Value::Finite(number) => soft::to_integer(number, form.round).clamp(low, high),
    };
    extended(x as u64, width, false)
}

/// The source's bits alone, flushed if it is f32 and there is `.ftz`.
fn input(bits: u64, from: &Format, form: &Form) -> u64 {
    let bits = extended(bits, from.sign_bit + 1, false);
    if form.ftz && form.from == Type::F32 { u64::from(single::flush(bits as u32)) } else { bits }
}

fn float_to_float(bits: u64, from: &Format, to: &Format, form: &Form) -> u64 {
    let bits = input(bits, from, form);
    let value = soft::unpack(bits, from);
    let out = match value {
        // Double precision keeps what it can of a NaN; single precision has but one.
        Value::Nan if form.to == Type::F64 => match form.from {
            Type::F64 => double::nan([bits]),
            Type::F32 => bits >> 31 << 63 | 0x7FF8 << 48 | (bits & 0x7F_FFFF) << 29,
            _ => 0x7FFF_FFFF_E000_0000,
        },
        Value::Finite(number) if form.integer => whole(bits, number, to, form.round),
        // Without an infinity there is nothing beyond the largest number.
        Value::Infinity(negative) if form.satfinite => {
            u64::from(negative) << to.sign_bit | to.max_finite
        }
        value => soft::pack(Some(value), to, form.round),
    };
    limited(out, to, form)
}

/// Rounded to an integer within its format; a zero keeps the sign.
fn whole(bits: u64, number: Number, format: &Format, round: Round) -> u64 {
    if number.exponent >= 0 {
        return bits;
    }
    let x = soft::to_integer(number, round);
    let number = Number { mantissa: x.unsigned_abs(), exponent: 0, ..number };
    soft::round(number, format, Round::Nearest)
}

/// `.ftz`, `.sat`, `.relu` and `.satfinite` on a result of a format.
fn limited(bits: u64, format: &Format, form: &Form) -> u64 {
    let sign = 1 << format.sign_bit;
    let nan = bits & (sign - 1) > format.infinity.unwrap_or(format.max_finite);
    let negative = bits & sign != 0;
    let infinite = format.infinity == Some(bits & (sign - 1));
    let one = ((-format.min_exponent + 1) as u64) << (format.precision - 1);
    match bits {
        bits if form.ftz && form.to == Type::F32 && !nan => {
            let flushed = u64::from(single::flush(bits as u32));
            limited(flushed, format, &Form { ftz: false, ..*form })
        }
        _ if form.sat && (nan || negative) => 0,
        bits if form.sat => bits.min(one),
        _ if form.relu && negative && !nan => 0,
        bits if form.satfinite && infinite => bits & sign | format.max_finite,
        bits => bits,
    }
}

/// The packed conversions: two f32 into halves (a into the upper), or both halves of `a`.
pub(super) fn packed(a: u32, b: u32, form: &Form) -> u32 {
    let part = |x: u32| convert(u64::from(x), form) as u32;
    match (form.from, form.to) {
        (Type::F32, Type::F16x2 | Type::BF16x2) => part(a) << 16 | part(b),
        (Type::F32, _) => part(a) << 8 | part(b),
        (Type::F16x2, _) => part(a >> 16) << 8 | part(a & 0xFFFF),
        _ => part(a >> 8 & 0xFF) << 16 | part(a & 0xFF),
    }
}

/// A signed number limited to a field of `bits`, as those bits.
pub(super) fn pack_field(x: u32, bits: u32, signed: bool) -> u32 {
    let (low, high) = match signed {
        true => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => (0, (1 << bits) - 1),
    };
    (x as i32).clamp(low, high) as u32 & ((1 << bits) - 1)
}
