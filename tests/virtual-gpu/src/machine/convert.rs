//! cvt: conversions between all types.

use super::lower::{Lowering, Refusal};
use super::registers::Registers;
use crate::ptx::ast::Instruction;

#[derive(Debug, Clone)]
pub enum Op {}

pub fn lower(_instruction: &Instruction, _to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(None)
}

#[inline]
pub fn exec(op: &Op, _regs: &mut Registers, _mask: u32) {
    match *op {}
}
