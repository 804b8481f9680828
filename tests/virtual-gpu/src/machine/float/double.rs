//! f64: a function of the whole warp for each instruction.

use super::{Arithmetic, Class, Run};
use crate::machine::arith::double::{bits, is_nan, nan, select};
use crate::machine::arith::{Round, soft};
use crate::machine::registers::{Registers, W64};

const SIGN: u64 = 1 << 63;

#[inline(always)]
fn one(op: &Arithmetic, regs: &mut Registers, mask: u32, f: impl Fn(f64) -> f64) {
    regs.map64(mask, op.d, op.operands[0], |a| bits(f(f64::from_bits(a)), [a]));
}

#[inline(always)]
fn two(op: &Arithmetic, regs: &mut Registers, mask: u32, f: impl Fn(f64, f64) -> f64) {
    let [a, b, _] = op.operands;
    regs.map64x2(mask, op.d, a, b, |a, b| bits(f(f64::from_bits(a), f64::from_bits(b)), [a, b]));
}

/// Any rounding: exact integers behind `f`, which gives some NaN where the result is one.
#[inline(always)]
fn exact<const N: usize>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn([u64; N], Round) -> u64,
) {
    let round = op.form.round;
    regs.map64x3(mask, op.d, op.operands, |a, b, c| {
        let mut inputs = [0; N];
        inputs.copy_from_slice(&[a, b, c][..N]);
        let out = f(inputs, round);
        if is_nan(out) { nan(inputs) } else { out }
    });
}

pub(super) fn add(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| two(op, regs, mask, |a, b| a + b),
        _ => |op, regs, mask| exact(op, regs, mask, |[a, b], r| soft::add(a, b, &soft::F64, r)),
    }
}

pub(super) fn sub(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| two(op, regs, mask, |a, b| a - b),
        _ => |op, regs, mask| {
            exact(op, regs, mask, |[a, b], r| soft::add(a, b ^ SIGN, &soft::F64, r))
        },
    }
}

pub(super) fn mul(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| two(op, regs, mask, |a, b| a * b),
        _ => |op, regs, mask| exact(op, regs, mask, |[a, b], r| soft::mul(a, b, &soft::F64, r)),
    }
}

pub(super) fn fma(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| {
            regs.map64x3(mask, op.d, op.operands, |a, b, c| {
                let [x, y, z] = [a, b, c].map(f64::from_bits);
                bits(x.mul_add(y, z), [a, b, c])
            })
        },
        _ => {
            |op, regs, mask| exact(op, regs, mask, |[a, b, c], r| soft::fma(a, b, c, &soft::F64, r))
        }
    }
}

pub(super) fn div(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| two(op, regs, mask, |a, b| a / b),
        _ => |op, regs, mask| exact(op, regs, mask, |[a, b], r| soft::div(a, b, &soft::F64, r)),
    }
}

pub(super) fn rcp(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| one(op, regs, mask, |a| 1.0 / a),
        _ => |op, regs, mask| {
            let one = 1f64.to_bits();
            exact(op, regs, mask, |[a], r| soft::div(one, a, &soft::F64, r))
        },
    }
}

pub(super) fn sqrt(round: Round) -> Run {
    match round {
        Round::Nearest => |op, regs, mask| one(op, regs, mask, f64::sqrt),
        _ => |op, regs, mask| exact(op, regs, mask, |[a], r| soft::sqrt(a, &soft::F64, r)),
    }
}

/// `rsqrt.approx.f64`: about twice the error of a correctly rounded one.
pub(super) fn rsqrt(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    one(op, regs, mask, |a| 1.0 / a.sqrt());
}

fn flush(x: u64) -> u64 {
    if x >> 52 & 0x7FF == 0 { x & SIGN } else { x }
}

/// `.approx.ftz.f64` forms see and give the upper 32 bits alone, subnormals as zeros.
#[inline(always)]
fn upper(op: &Arithmetic, regs: &mut Registers, mask: u32, f: impl Fn(f64) -> f64) {
    const UPPER: u64 = 0xFFFF_FFFF_0000_0000;
    regs.map64(mask, op.d, op.operands[0], |a| {
        // Not cut, lest a NaN becomes infinity.
        let seen = if is_nan(a) { a } else { flush(a & UPPER) };
        let x = f(f64::from_bits(seen));
        // Rounded to the upper half; what is added never carries beyond infinity.
        let rounded = if x.is_finite() { x.to_bits() + (1 << 31) } else { bits(x, [a]) };
        flush(rounded & UPPER)
    });
}

pub(super) fn rcp_approx_ftz(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    upper(op, regs, mask, |a| 1.0 / a);
}

pub(super) fn rsqrt_approx_ftz(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    upper(op, regs, mask, |a| 1.0 / a.sqrt());
}

/// Of a NaN too, whose sign is turned.
pub(super) fn neg(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    regs.map64(mask, op.d, op.operands[0], |a| a ^ SIGN);
}

pub(super) fn abs(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    regs.map64(mask, op.d, op.operands[0], |a| a & !SIGN);
}

/// `copysign d, a, b`: b with the sign of a.
pub(super) fn copysign(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let [a, b, _] = op.operands;
    regs.map64x2(mask, op.d, a, b, |a, b| a & SIGN | b & !SIGN);
}

pub(super) fn min_max(max: bool) -> Run {
    match max {
        false => |op, regs, mask| {
            regs.map64x2(mask, op.d, op.operands[0], op.operands[1], select::<false>)
        },
        true => |op, regs, mask| {
            regs.map64x2(mask, op.d, op.operands[0], op.operands[1], select::<true>)
        },
    }
}

/// The lanes whose number is of the class.
pub(super) fn test(class: Class, values: &W64) -> u32 {
    let mut out = 0;
    for (lane, &x) in values.iter().enumerate() {
        let (magnitude, normal, infinity) = (x & !SIGN, 1 << 52, 0x7FF0_0000_0000_0000);
        let yes = match class {
            Class::Finite => magnitude < infinity,
            Class::Infinite => magnitude == infinity,
            Class::Number => magnitude <= infinity,
            Class::NotANumber => magnitude > infinity,
            // Zeros count as normal.
            Class::Normal => magnitude == 0 || (normal..infinity).contains(&magnitude),
            Class::Subnormal => (1..normal).contains(&magnitude),
        };
        out |= u32::from(yes) << lane;
    }
    out
}
