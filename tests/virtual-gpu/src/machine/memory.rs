//! Loads, stores, atomics, asynchronous copies, in every state space.

use super::lower::{Lowering, Refusal};
use super::{Exec, Fault, Members};
use crate::ptx::ast::Instruction;

#[derive(Debug, Clone)]
pub enum Op {}

pub fn lower(_instruction: &Instruction, _to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(None)
}

/// The lanes that must arrive together.
pub fn members(op: &Op) -> Members {
    match *op {}
}

pub fn exec(op: &Op, _exec: &mut Exec) -> Result<(), Fault> {
    match *op {}
}

/// The asynchronous copies of a warp's lanes that were not waited for.
#[derive(Debug, Default)]
pub struct Pending {}
