//! Loads, stores, atomics, asynchronous copies, in every state space.

pub mod address;
mod atom;
mod copy;
pub mod decode;
mod elements;
pub mod load;
mod raw;
pub mod reach;
pub mod store;
#[cfg(test)]
mod tests;

use super::lower::{Lowering, Refusal};
use super::registers::Slot;
use super::{Exec, Fault};
use crate::ptx::ast::{Instruction, Type};

pub use copy::Pending;

/// The instructions of PTX manual sections 9.7.9 (data movement) and 9.7.13 (atomics).
#[derive(Debug, Clone)]
pub enum Op {
    Load(load::Load),
    Store(store::Store),
    Atom(atom::Atom),
    Copy(copy::Op),
    /// `createpolicy`: hints have no effect here, so any value will do.
    Policy(Slot),
    /// `prefetch`, `applypriority`, `discard`: hints to caches.
    Hint,
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(Some(match instruction.name {
        "ld" | "ldu" => Op::Load(load::lower(instruction, to)?),
        "st" => Op::Store(store::lower(instruction, to)?),
        "atom" | "red" => Op::Atom(atom::lower(instruction, to)?),
        "cp" => Op::Copy(copy::lower(instruction, to)?),
        "createpolicy" => match instruction.operands.first() {
            Some(policy) => Op::Policy(to.dst(policy, Type::B64)?),
            None => return Err(Refusal::form(instruction, "it has no destination")),
        },
        "prefetch" | "prefetchu" | "applypriority" | "discard" => Op::Hint,
        _ => return Ok(None),
    }))
}

pub fn exec(op: &Op, exec: &mut Exec) -> Result<(), Fault> {
    match op {
        Op::Load(op) => load::exec(op, exec),
        Op::Store(op) => store::exec(op, exec),
        Op::Atom(op) => atom::exec(op, exec),
        Op::Copy(op) => copy::exec(op, exec),
        Op::Policy(slot) => {
            let mask = exec.mask;
            exec.regs.set64(*slot, mask, &[0; 32]);
            Ok(())
        }
        Op::Hint => Ok(()),
    }
}
