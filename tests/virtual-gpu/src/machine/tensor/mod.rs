//! Tensor cores and their fragments: ldmatrix, stmatrix, movmatrix, mma, wmma.
//!
//! PTX manual, chapter "Warp Level Matrix Multiply-Accumulate Instructions". Every one of them is
//! `.sync.aligned`: all 32 lanes of the warp execute it together.

mod fragments;
mod matrix;
mod mma;
mod product;
mod wmma;

use super::lower::{Lowering, Refusal};
use super::registers::{FULL, Slot};
use super::{Exec, Fault, Members};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::watch::Kind;

#[derive(Debug, Clone)]
pub enum Op {
    Load(matrix::Load),
    Store(matrix::Store),
    /// movmatrix.trans: `d` is the transpose of the 8 × 8 matrix in `a`.
    Transpose {
        d: Slot,
        a: Slot,
    },
    Mma(Box<mma::Mma>),
    /// wmma.load, wmma.store.
    Move(Box<wmma::Move>),
    /// wmma.mma.
    Multiply(Box<wmma::Multiply>),
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(Some(match instruction.name {
        "ldmatrix" => Op::Load(matrix::lower_load(instruction, to)?),
        "stmatrix" => Op::Store(matrix::lower_store(instruction, to)?),
        "movmatrix" => {
            if instruction.modifiers != ["sync", "aligned", "m8n8", "trans", "b16"] {
                return Err(Refusal::form(
                    instruction,
                    "movmatrix is .sync.aligned.m8n8.trans.b16",
                ));
            }
            let [d, a] = operands(instruction)?;
            Op::Transpose { d: to.dst(d, Type::B32)?, a: to.src(a, Type::B32)? }
        }
        "mma" => Op::Mma(Box::new(mma::lower(instruction, to)?)),
        "wmma" if instruction.modifiers.first() == Some(&"mma") => {
            Op::Multiply(Box::new(wmma::lower_multiply(instruction, to)?))
        }
        "wmma" => Op::Move(Box::new(wmma::lower_move(instruction, to)?)),
        _ => return Ok(None),
    }))
}

/// The lanes that must arrive together.
pub fn members(_op: &Op) -> Members {
    Members::All
}

/// # Errors
/// A warp with lanes that have exited or never were, and what is wrong with an address.
pub fn exec(op: &Op, exec: &mut Exec) -> Result<(), Fault> {
    if exec.mask != FULL {
        let lane = exec.mask.trailing_ones() as usize;
        let detail = format!(
            "an .aligned instruction needs all 32 lanes of the warp, only {:#010x} are here",
            exec.mask
        );
        return Err(Fault { kind: Kind::BarrierNotReached, lane, detail });
    }
    match op {
        Op::Load(load) => matrix::load(load, exec)?,
        Op::Store(store) => matrix::store(store, exec)?,
        Op::Transpose { d, a } => {
            let out = fragments::transpose(exec.regs.r32(*a));
            exec.regs.set32(*d, FULL, &out);
        }
        Op::Mma(mma) => mma::exec(mma, &mut exec.regs),
        Op::Move(moved) => wmma::exec_move(moved, exec)?,
        Op::Multiply(multiply) => wmma::exec_multiply(multiply, &mut exec.regs),
    }
    Ok(())
}

/// The operands, if there are this many.
fn operands<'i, 'a, const N: usize>(
    instruction: &'i Instruction<'a>,
) -> Result<&'i [Operand<'a>; N], Refusal> {
    instruction
        .operands
        .as_slice()
        .try_into()
        .map_err(|_| Refusal::form(instruction, &format!("{N} operands are needed")))
}

/// The registers of a fragment: a vector, or one register without braces.
fn vector<'i, 'a>(operand: &'i Operand<'a>) -> &'i [Operand<'a>] {
    match operand {
        Operand::Vector(elements) => elements,
        single => std::slice::from_ref(single),
    }
}

#[cfg(test)]
mod tests;
