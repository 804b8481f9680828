//! f16, bf16, f16x2 and bf16x2: a function of the whole warp for each instruction.
//!
//! The scalar forms run as the packed ones: upper halves of registers are zero, and a scalar result's upper
//! half is cut off.

use super::{Arithmetic, Run};
use crate::machine::arith::half::{Bf16, F16, Half, both1, both2, both3};
use crate::machine::arith::{approx, single};
use crate::machine::registers::Registers;

/// `PACKED` is f16x2 or bf16x2.
#[inline(always)]
fn one<const PACKED: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(u32) -> u32,
) {
    let a = op.operands[0];
    match PACKED {
        true => regs.map32(mask, op.d, a, |a| both1(a, &f)),
        false => regs.map32(mask, op.d, a, |a| f(a & 0xFFFF)),
    }
}

#[inline(always)]
fn two<const PACKED: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(u32, u32) -> u32,
) {
    let [a, b, _] = op.operands;
    match PACKED {
        true => regs.map32x2(mask, op.d, a, b, |a, b| both2(a, b, &f)),
        false => regs.map32x2(mask, op.d, a, b, |a, b| f(a & 0xFFFF, b & 0xFFFF)),
    }
}

#[inline(always)]
fn three<const PACKED: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(u32, u32, u32) -> u32,
) {
    match PACKED {
        true => regs.map32x3(mask, op.d, op.operands, |a, b, c| both3(a, b, c, &f)),
        false => {
            regs.map32x3(mask, op.d, op.operands, |a, b, c| f(a & 0xFFFF, b & 0xFFFF, c & 0xFFFF))
        }
    }
}

/// f16, f16x2, bf16 or bf16x2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F16 { packed: bool },
    Bf16 { packed: bool },
}

/// The function of a kind, from those for f16, f16x2, bf16 and bf16x2.
fn of(kind: Kind, [f16, f16x2, bf16, bf16x2]: [Run; 4]) -> Run {
    match kind {
        Kind::F16 { packed: false } => f16,
        Kind::F16 { packed: true } => f16x2,
        Kind::Bf16 { packed: false } => bf16,
        Kind::Bf16 { packed: true } => bf16x2,
    }
}

/// A sum, difference or product in f32, rounded once more: f32 has more than twice the bits and two, so
/// the first rounding never changes the second (Figueroa 1995); where f32's own subnormals begin, bf16's
/// products of 16 bits are exact down to half of its smallest number.
#[inline(always)]
fn through_f32<H: Half, const PACKED: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
    f: impl Fn(f32, f32) -> f32,
) {
    let wide = |x| f32::from_bits(H::to_f32(x));
    let plain = |a, b| H::from_f32(single::bits(f(wide(a), wide(b))));
    let form = op.form;
    match (form.ftz, form.sat) {
        (false, false) => two::<PACKED>(op, regs, mask, plain),
        (true, false) => {
            two::<PACKED>(op, regs, mask, |a, b| H::flush(plain(H::flush(a), H::flush(b))))
        }
        (false, true) => two::<PACKED>(op, regs, mask, |a, b| H::saturate(plain(a, b))),
        (true, true) => two::<PACKED>(op, regs, mask, |a, b| {
            H::saturate(H::flush(plain(H::flush(a), H::flush(b))))
        }),
    }
}

fn add_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    through_f32::<H, PACKED>(op, regs, mask, |a, b| a + b);
}

fn sub_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    through_f32::<H, PACKED>(op, regs, mask, |a, b| a - b);
}

fn mul_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    through_f32::<H, PACKED>(op, regs, mask, |a, b| a * b);
}

fn fma_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let form = op.form;
    let flushed = |x| if form.ftz { H::flush(x) } else { x };
    if (form.ftz, form.sat, form.relu) == (false, false, false) {
        return three::<PACKED>(op, regs, mask, H::fma);
    }
    three::<PACKED>(op, regs, mask, |a, b, c| {
        let x = flushed(H::fma(flushed(a), flushed(b), flushed(c)));
        let x = if form.sat { H::saturate(x) } else { x };
        if form.relu { H::relu(x) } else { x }
    });
}

pub(super) fn add(kind: Kind) -> Run {
    of(
        kind,
        [add_of::<F16, false>, add_of::<F16, true>, add_of::<Bf16, false>, add_of::<Bf16, true>],
    )
}

pub(super) fn sub(kind: Kind) -> Run {
    of(
        kind,
        [sub_of::<F16, false>, sub_of::<F16, true>, sub_of::<Bf16, false>, sub_of::<Bf16, true>],
    )
}

pub(super) fn mul(kind: Kind) -> Run {
    of(
        kind,
        [mul_of::<F16, false>, mul_of::<F16, true>, mul_of::<Bf16, false>, mul_of::<Bf16, true>],
    )
}

pub(super) fn fma(kind: Kind) -> Run {
    of(
        kind,
        [fma_of::<F16, false>, fma_of::<F16, true>, fma_of::<Bf16, false>, fma_of::<Bf16, true>],
    )
}

/// Neither keeps a NaN's payload.
fn neg_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let ftz = op.form.ftz;
    one::<PACKED>(op, regs, mask, |a| {
        let a = if ftz { H::flush(a) } else { a };
        if H::is_nan(a) { crate::machine::arith::half::NAN } else { a ^ 0x8000 }
    });
}

fn abs_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let ftz = op.form.ftz;
    one::<PACKED>(op, regs, mask, |a| {
        let a = if ftz { H::flush(a) } else { a };
        if H::is_nan(a) { crate::machine::arith::half::NAN } else { a & 0x7FFF }
    });
}

pub(super) fn neg(kind: Kind) -> Run {
    of(
        kind,
        [neg_of::<F16, false>, neg_of::<F16, true>, neg_of::<Bf16, false>, neg_of::<Bf16, true>],
    )
}

pub(super) fn abs(kind: Kind) -> Run {
    of(
        kind,
        [abs_of::<F16, false>, abs_of::<F16, true>, abs_of::<Bf16, false>, abs_of::<Bf16, true>],
    )
}

fn extreme<H: Half, const PACKED: bool, const MAX: bool>(
    op: &Arithmetic,
    regs: &mut Registers,
    mask: u32,
) {
    let form = op.form;
    let flushed = |x| if form.ftz { H::flush(x) } else { x };
    match (form.nan, form.xorsign) {
        (false, false) => {
            two::<PACKED>(op, regs, mask, |a, b| H::select::<MAX, false>(flushed(a), flushed(b)))
        }
        (true, false) => {
            two::<PACKED>(op, regs, mask, |a, b| H::select::<MAX, true>(flushed(a), flushed(b)))
        }
        (nan, true) => two::<PACKED>(op, regs, mask, |a, b| {
            let [a, b] = [a, b].map(flushed);
            let (x, y) = (a & 0x7FFF, b & 0x7FFF);
            let out = match nan {
                false => H::select::<MAX, false>(x, y),
                true => H::select::<MAX, true>(x, y),
            };
            if H::is_nan(out) { out } else { out | (a ^ b) & 0x8000 }
        }),
    }
}

pub(super) fn min_max(kind: Kind, max: bool) -> Run {
    match max {
        false => of(
            kind,
            [
                extreme::<F16, false, false>,
                extreme::<F16, true, false>,
                extreme::<Bf16, false, false>,
                extreme::<Bf16, true, false>,
            ],
        ),
        true => of(
            kind,
            [
                extreme::<F16, false, true>,
                extreme::<F16, true, true>,
                extreme::<Bf16, false, true>,
                extreme::<Bf16, true, true>,
            ],
        ),
    }
}

fn ex2_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    let ftz = op.form.ftz;
    one::<PACKED>(op, regs, mask, |a| {
        let a = if ftz { H::flush(a) } else { a };
        let x = H::from_f32(single::bits(approx::ex2(f32::from_bits(H::to_f32(a)))));
        if ftz { H::flush(x) } else { x }
    });
}

fn tanh_of<H: Half, const PACKED: bool>(op: &Arithmetic, regs: &mut Registers, mask: u32) {
    one::<PACKED>(op, regs, mask, |a| {
        H::from_f32(single::bits(approx::tanh(f32::from_bits(H::to_f32(a)))))
    });
}

pub(super) fn ex2(kind: Kind) -> Run {
    of(
        kind,
        [ex2_of::<F16, false>, ex2_of::<F16, true>, ex2_of::<Bf16, false>, ex2_of::<Bf16, true>],
    )
}

pub(super) fn tanh(kind: Kind) -> Run {
    of(
        kind,
        [
            tanh_of::<F16, false>,
            tanh_of::<F16, true>,
            tanh_of::<Bf16, false>,
            tanh_of::<Bf16, true>,
        ],
    )
}
