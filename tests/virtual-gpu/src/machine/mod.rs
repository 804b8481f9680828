//! The PTX machine: syntax trees are lowered into `Program`s, and `warp` runs those.
//!
//! Instructions come in families, a file each. A family gives three things:
//!
//! - `Op`, an instruction with its registers as slots and its modifiers decoded;
//! - `lower(&Instruction, &mut Lowering) -> Result<Option<Op>, Refusal>`: `None` where the instruction is
//!   of another family, a `Refusal` where it is one of ours in a form that the machine does not know;
//! - `exec`: for arithmetic `exec(&Op, &mut Registers, mask)`, which cannot fail; for what touches memory
//!   or other lanes `exec(&Op, &mut Exec) -> Result<(), Fault>`.

pub mod arith;
pub mod block;
pub mod builtin;
pub mod compare;
pub mod control;
pub mod convert;
pub mod data;
pub mod float;
mod flow;
pub mod integer;
pub mod launch;
pub mod layout;
pub mod lower;
pub mod memory;
pub mod program;
pub mod registers;
pub mod strand;
pub mod tensor;
pub mod warp;
pub mod warp_ops;

use crate::memory::Memory;
use crate::watch::{Kind, Log};
use registers::{Pred, Registers, Slot};

/// A lowered instruction.
#[derive(Debug, Clone)]
pub struct Inst {
    pub guard: Option<Guard>,
    pub op: Op,
}

/// `@p` and `@!p`.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    pub pred: Pred,
    pub negated: bool,
}

/// One instruction of one family.
#[derive(Debug, Clone)]
pub enum Op {
    Integer(integer::Op),
    Float(float::Op),
    Convert(convert::Op),
    Compare(compare::Op),
    Data(data::Op),
    Memory(memory::Op),
    Warp(warp_ops::Op),
    Tensor(tensor::Op),
    Control(control::Op),
}

/// Which lanes must be at a `.sync` instruction before it is executed.
#[derive(Debug, Clone, Copy)]
pub enum Members {
    /// It is not a `.sync` instruction.
    None,
    /// The lanes of the mask in this slot.
    Mask(Slot),
    /// All lanes of the warp that have not exited (`.sync.aligned` without a mask).
    All,
}

/// Why an instruction stopped: filled in with its place by the warp.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    /// The first lane that it happened in.
    pub lane: usize,
    pub detail: String,
}

/// What the launch gives every thread: shared by the host threads that run its blocks.
pub struct Grid<'a> {
    pub kernel: &'a str,
    pub program: &'a program::Program,
    pub memory: &'a Memory,
    /// The kernel's parameters, laid out as `.param` space.
    pub params: &'a [u8],
    /// Blocks in the grid, x y z.
    pub grid_dim: [u32; 3],
    /// Threads in a block, x y z.
    pub block_dim: [u32; 3],
    /// Static and dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// The dynamic part of it, at its end.
    pub dynamic_shared_bytes: u32,
    /// Counts launches of this device, from 1: `%gridid`, and the watchman's tag.
    pub launch: u64,
    pub multiprocessors: u32,
    pub watched: bool,
    pub log: &'a Log,
}

/// What an instruction that reaches beyond registers may touch.
pub struct Exec<'a> {
    pub regs: Registers<'a>,
    /// The lanes that execute: never empty.
    pub mask: u32,
    pub warp: &'a mut warp::State,
    pub block: &'a mut block::State,
    pub grid: &'a Grid<'a>,
    /// Index of the instruction in the program.
    pub pc: u32,
}

impl Exec<'_> {
    /// Tells the watchman's log of something that does not end the launch. `other` is the other thread
    /// of a race as (block, thread, pc) where it is known.
    pub fn find(&self, kind: Kind, lane: usize, detail: String, other: Option<warp::Spot>) {
        let me = self.spot(lane);
        self.grid.log.report(self.grid.finding(kind, me, other, detail));
    }

    /// Where `lane` is.
    pub fn spot(&self, lane: usize) -> warp::Spot {
        warp::Spot {
            block: self.block.index,
            thread: self.warp.thread(lane, self.grid.block_dim),
            pc: self.pc,
        }
    }
}
