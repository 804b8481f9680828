//! Floating point arithmetic: f64, f32, f16, bf16 and their packed forms.
//!
//! PTX manual 9.7.3 (f32, f64), 9.7.4 (f16, bf16). `lower` picks a function for the whole warp, with
//! `.ftz` and the like as constants of it; `exec` calls that function.

mod double;
mod half;
mod lower;
mod single;

use super::arith::Round;
use super::registers::{Pred, Registers, Slot};

pub use lower::lower;

/// An instruction of this family.
#[derive(Debug, Clone)]
pub enum Op {
    Arithmetic(Arithmetic),
    /// `testp`
    Test {
        class: Class,
        wide: bool,
        d: Pred,
        a: Slot,
    },
}

/// One that writes a register.
#[derive(Debug, Clone, Copy)]
pub struct Arithmetic {
    run: Run,
    d: Slot,
    /// Those that the instruction does not have are `a` again.
    operands: [Slot; 3],
    form: Form,
}

/// Executes an instruction in the lanes of a mask.
type Run = fn(&Arithmetic, &mut Registers, u32);

/// The modifiers, for the functions that are not made for one combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Form {
    round: Round,
    ftz: bool,
    sat: bool,
    relu: bool,
    /// `.NaN` of min and max: a NaN wins.
    nan: bool,
    /// `.xorsign.abs` of min and max.
    xorsign: bool,
}

/// What `testp` asks (PTX manual 9.7.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

#[inline]
pub fn exec(op: &Op, regs: &mut Registers, mask: u32) {
    match op {
        Op::Arithmetic(op) => (op.run)(op, regs, mask),
        Op::Test { class, wide, d, a } => {
            let value = match wide {
                false => single::test(*class, regs.r32(*a)),
                true => double::test(*class, regs.r64(*a)),
            };
            regs.set_pred(*d, mask, value);
        }
    }
}

/// Of the four functions for (no `.ftz`, `.ftz`) and then the same with `.sat`, the right one.
fn pick(ftz: bool, sat: bool, [plain, ftz_, sat_, both]: [Run; 4]) -> Run {
    match (ftz, sat) {
        (false, false) => plain,
        (true, false) => ftz_,
        (false, true) => sat_,
        (true, true) => both,
    }
}
