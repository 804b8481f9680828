//! f32: a function of the whole warp for each instruction.

use super::{Arithmetic, Class, Run, pick};
use crate::machine::arith::single::{self, NAN, finish, flush, flush_if, select};
use crate::machine::arith::{Round, approx, soft};
use crate::machine::registers::{Registers, W32};

/// A register's bits as a number, after `.ftz`.
#[inline(always)]
fn input<const FTZ: bool>(x: u32) -> f32 {
    f32::from_bits(flush_if::<FTZ>(x))
}

#[inline(always)]
fn one<const FTZ: bool, const SAT: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(f32) -> f32,
) {
    regs.map32(mask, op.d, op.operands[0], |a| finish::<FTZ, SAT>(f(input::<FTZ>(a))));
}

#[inline(always)]
fn two<const FTZ: bool, const SAT: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(f32, f32) -> f32,
) {
    let [a, b, _] = op.operands;
    regs.map32x2(mask, op.d, a, b, |a, b| finish::<FTZ, SAT>(f(input::<FTZ>(a), input::<FTZ>(b))));
}

fn add_rn<const FTZ: bool, const SAT: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    two::<FTZ, SAT>(op, regs, mask, |a, b| a + b);
}

fn sub_rn<const FTZ: bool, const SAT: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    two::<FTZ, SAT>(op, regs, mask, |a, b| a - b);
}

fn mul_rn<const FTZ: bool, const SAT: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    two::<FTZ, SAT>(op, regs, mask, |a, b| a * b);
}

fn fma_rn<const FTZ: bool, const SAT: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    regs.map32x3(mask, op.d, op.operands, |a, b, c| {
        finish::<FTZ, SAT>(input::<FTZ>(a).mul_add(input::<FTZ>(b), input::<FTZ>(c)))
    });
}

/// Any rounding, any modifiers: exact integers behind `f`.
#[inline(always)]
fn exact(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(u64, u64, u64, Round) -> u64,
) {
    let form = op.form;
    let flushed = |x: u32| if form.ftz { flush(x) } else { x };
    regs.map32x3(mask, op.d, op.operands, |a, b, c| {
        let [a, b, c] = [a, b, c].map(|x| u64::from(flushed(x)));
        let x = flushed(f(a, b, c, form.round) as u32);
        if form.sat { single::saturate(x) } else { x }
    });
}

const SIGN: u64 = 0x8000_0000;

pub(super) fn add(round: Round, ftz: bool, sat: bool) -> Run {
    if round != Round::Nearest {
        return |op, regs, mask| exact(op, regs, mask, |a, b, _, r| soft::add(a, b, &soft::F32, r));
    }
    pick(
        ftz,
        sat,
        [
            add_rn::<false, false>,
            add_rn::<true, false>,
            add_rn::<false, true>,
            add_rn::<true, true>,
        ],
    )
}

pub(super) fn sub(round: Round, ftz: bool, sat: bool) -> Run {
    if round != Round::Nearest {
        return |op, regs, mask| {
            exact(op, regs, mask, |a, b, _, r| soft::add(a, b ^ SIGN, &soft::F32, r))
        };
    }
    pick(
        ftz,
        sat,
        [
            sub_rn::<false, false>,
            sub_rn::<true, false>,
            sub_rn::<false, true>,
            sub_rn::<true, true>,
        ],
    )
}

pub(super) fn mul(round: Round, ftz: bool, sat: bool) -> Run {
    if round != Round::Nearest {
        return |op, regs, mask| exact(op, regs, mask, |a, b, _, r| soft::mul(a, b, &soft::F32, r));
    }
    pick(
        ftz,
        sat,
        [
            mul_rn::<false, false>,
            mul_rn::<true, false>,
            mul_rn::<false, true>,
            mul_rn::<true, true>,
        ],
    )
}

pub(super) fn fma(round: Round, ftz: bool, sat: bool) -> Run {
    if round != Round::Nearest {
        return |op, regs, mask| {
            exact(op, regs, mask, |a, b, c, r| soft::fma(a, b, c, &soft::F32, r))
        };
    }
    pick(
        ftz,
        sat,
        [
            fma_rn::<false, false>,
            fma_rn::<true, false>,
            fma_rn::<false, true>,
            fma_rn::<true, true>,
        ],
    )
}

/// `div` with a rounding, and `.full`, which may round as it likes.
pub(super) fn div(round: Round, ftz: bool) -> Run {
    match (round, ftz) {
        (Round::Nearest, false) => {
            |op, regs, mask| two::<false, false>(op, regs, mask, |a, b| a / b)
        }
        (Round::Nearest, true) => |op, regs, mask| two::<true, false>(op, regs, mask, |a, b| a / b),
        _ => |op, regs, mask| exact(op, regs, mask, |a, b, _, r| soft::div(a, b, &soft::F32, r)),
    }
}

pub(super) fn div_approx(ftz: bool) -> Run {
    match ftz {
        false => |op, regs, mask| two::<false, false>(op, regs, mask, approx::div),
        true => |op, regs, mask| two::<true, false>(op, regs, mask, approx::div),
    }
}

pub(super) fn rcp(round: Round, ftz: bool) -> Run {
    const ONE: u64 = 0x3F80_0000;
    match (round, ftz) {
        (Round::Nearest, false) => {
            |op, regs, mask| one::<false, false>(op, regs, mask, |a| 1.0 / a)
        }
        (Round::Nearest, true) => |op, regs, mask| one::<true, false>(op, regs, mask, |a| 1.0 / a),
        _ => |op, regs, mask| exact(op, regs, mask, |a, _, _, r| soft::div(ONE, a, &soft::F32, r)),
    }
}

pub(super) fn sqrt(round: Round, ftz: bool) -> Run {
    match (round, ftz) {
        (Round::Nearest, false) => |op, regs, mask| one::<false, false>(op, regs, mask, f32::sqrt),
        (Round::Nearest, true) => |op, regs, mask| one::<true, false>(op, regs, mask, f32::sqrt),
        _ => |op, regs, mask| exact(op, regs, mask, |a, _, _, r| soft::sqrt(a, &soft::F32, r)),
    }
}

/// The approximations of one operand, by their opcode.
pub(super) fn approximation(name: &str, ftz: bool) -> Option<Run> {
    Some(match (name, ftz) {
        ("rcp", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::rcp),
        ("rcp", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::rcp),
        ("sqrt", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::sqrt),
        ("sqrt", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::sqrt),
        ("rsqrt", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::rsqrt),
        ("rsqrt", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::rsqrt),
        ("sin", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::sin),
        ("sin", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::sin),
        ("cos", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::cos),
        ("cos", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::cos),
        ("lg2", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::lg2),
        ("lg2", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::lg2),
        ("ex2", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::ex2),
        ("ex2", true) => |op, regs, mask| one::<true, false>(op, regs, mask, approx::ex2),
        ("tanh", false) => |op, regs, mask| one::<false, false>(op, regs, mask, approx::tanh),
        _ => return None,
    })
}

pub(super) fn neg(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let ftz = op.form.ftz;
    regs.map32(mask, op.d, op.operands[0], |a| {
        let a = if ftz { flush(a) } else { a };
        if single::is_nan(a) { NAN } else { a ^ 0x8000_0000 }
    });
}

pub(super) fn abs(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let ftz = op.form.ftz;
    regs.map32(mask, op.d, op.operands[0], |a| {
        let a = if ftz { flush(a) } else { a };
        if single::is_nan(a) { NAN } else { a & 0x7FFF_FFFF }
    });
}

/// `copysign d, a, b`: b with the sign of a.
pub(super) fn copysign(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let [a, b, _] = op.operands;
    regs.map32x2(mask, op.d, a, b, |a, b| a & 0x8000_0000 | b & 0x7FFF_FFFF);
}

fn extreme<const MAX: bool, const NAN_WINS: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
) {
    let ftz = op.form.ftz;
    let [a, b, _] = op.operands;
    let pick = |a, b| select::<MAX, NAN_WINS>(a, b);
    match ftz {
        false => regs.map32x2(mask, op.d, a, b, pick),
        true => regs.map32x2(mask, op.d, a, b, |a, b| pick(flush(a), flush(b))),
    }
}

/// `.xorsign.abs`: of the magnitudes, with the product's sign.
fn extreme_xorsign<const MAX: bool, const NAN_WINS: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
) {
    let ftz = op.form.ftz;
    let [a, b, _] = op.operands;
    regs.map32x2(mask, op.d, a, b, |a, b| {
        let [a, b] = [a, b].map(|x| if ftz { flush(x) } else { x });
        let x = select::<MAX, NAN_WINS>(a & 0x7FFF_FFFF, b & 0x7FFF_FFFF);
        if single::is_nan(x) { NAN } else { x | (a ^ b) & 0x8000_0000 }
    });
}

/// `min` and `max`.
pub(super) fn min_max(max: bool, nan: bool, xorsign: bool) -> Run {
    match (max, nan, xorsign) {
        (false, false, false) => extreme::<false, false>,
        (false, true, false) => extreme::<false, true>,
        (true, false, false) => extreme::<true, false>,
        (true, true, false) => extreme::<true, true>,
        (false, false, true) => extreme_xorsign::<false, false>,
        (false, true, true) => extreme_xorsign::<false, true>,
        (true, false, true) => extreme_xorsign::<true, false>,
        (true, true, true) => extreme_xorsign::<true, true>,
    }
}

/// The lanes whose number is of the class.
pub(super) fn test(class: Class, values: &W32) -> u32 {
    let mut out = 0;
    for (lane, &x) in values.iter().enumerate() {
        let (magnitude, infinity) = (x & 0x7FFF_FFFF, 0x7F80_0000);
        let yes = match class {
            Class::Finite => magnitude < infinity,
            Class::Infinite => magnitude == infinity,
            Class::Number => magnitude <= infinity,
            Class::NotANumber => magnitude > infinity,
            // Zeros count as normal.
            Class::Normal => magnitude == 0 || (0x0080_0000..infinity).contains(&magnitude),
            Class::Subnormal => (1..0x0080_0000).contains(&magnitude),
        };
        out |= u32::from(yes) << lane;
    }
    out
}
