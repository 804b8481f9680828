//! `cp.async`: copies from global to shared memory that a thread waits for later, group by group.
//!
//! The bytes are copied at once; a GPU may do so at any time until the group is waited for. Whoever
//! touches them before then is told by the watchman, who learns of the end of a copy here.

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{LANES, Pred, Slot, W32, W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Target, access, tell, watch};
use super::decode::{self, modifiers};
use super::elements::{gather_any, scatter};
use super::reach::{reach_global, reach_shared, stray, uninitialised};
use crate::ptx::ast::{Instruction, Operand, Space, Type};
use crate::watch::race::{Access, How};

#[derive(Debug, Clone)]
pub struct Copy {
    to: Target,
    from: Target,
    bytes: u32,
    source: Source,
}

/// How many bytes come from the source; zeros follow.
#[derive(Debug, Clone, Copy)]
enum Source {
    All,
    Bytes(Slot),
    /// None where the predicate is true.
    Ignore(Pred, bool),
}

/// `cp.async` and its waits.
#[derive(Debug, Clone)]
pub enum Op {
    Copy(Copy),
    Commit,
    /// Until this many of the latest groups are open, at most.
    Wait(u32),
    WaitAll,
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let form = |why: &str| Refusal::form(instruction, why);
    match instruction.modifiers.as_slice() {
        ["async", "commit_group"] => Ok(Op::Commit),
        ["async", "wait_all"] => Ok(Op::WaitAll),
        ["async", "wait_group"] => match instruction.operands.as_slice() {
            [Operand::Int(groups)] => Ok(Op::Wait(u32::try_from(*groups).unwrap_or(u32::MAX))),
            _ => Err(form("it takes a number of groups")),
        },
        ["async", "ca" | "cg", "shared" | "shared::cta" | "shared::cluster", "global", ..] => {
            lower_copy(instruction, to).map(Op::Copy)
        }
        _ => Err(form("only cp.async of .ca and .cg from global to shared memory is implemented")),
    }
}

fn lower_copy(instruction: &Instruction, to: &mut Lowering) -> Result<Copy, Refusal> {
    let form = |why: &str| Refusal::form(instruction, why);
    let hints =
        Instruction { modifiers: instruction.modifiers[4..].to_vec(), ..instruction.clone() };
    let policy = usize::from(modifiers(&hints, &[])?.policy);
    let operands = &instruction.operands;
    let Some(Operand::Int(bytes @ (4 | 8 | 16))) = operands.get(2) else {
        return Err(form("4, 8 or 16 bytes can be copied"));
    };
    if instruction.modifiers[1] == "cg" && *bytes != 16 {
        return Err(form(".cg copies 16 bytes"));
    }
    let source = match operands.len() - policy {
        3 => Source::All,
        4 => match &operands[3] {
            Operand::Reg(r) if to.register_type(*r) == Type::Pred => {
                let (pred, negated) = to.src_pred(&operands[3])?;
                Source::Ignore(pred, negated)
            }
            Operand::Not(_) => {
                let (pred, negated) = to.src_pred(&operands[3])?;
                Source::Ignore(pred, negated)
            }
            size => Source::Bytes(to.src(size, Type::U32)?),
        },
        _ => return Err(form("wrong number of operands")),
    };
    Ok(Copy {
        to: decode::target(instruction, operands.first(), Space::Shared, to)?,
        from: decode::target(instruction, operands.get(1), Space::Global, to)?,
        bytes: *bytes as u32,
        source,
    })
}

pub fn exec(op: &Op, exec: &mut Exec) -> Result<(), Fault> {
    match op {
        Op::Copy(op) => copy(op, exec),
        Op::Commit => {
            exec.warp.pending.commit(exec.mask);
            Ok(())
        }
        Op::Wait(groups) => {
            wait(exec, Some(*groups));
            Ok(())
        }
        Op::WaitAll => {
            wait(exec, None);
            Ok(())
        }
    }
}

fn copy(op: &Copy, exec: &mut Exec) -> Result<(), Fault> {
    let (mask, bytes) = (exec.mask, op.bytes);
    let to = op.to.part(mask, &op.to.addresses(exec));
    let from = op.from.addresses(exec);
    let sizes: W32 = match op.source {
        Source::All => [bytes; LANES],
        Source::Bytes(slot) => exec.regs.r32(slot).map(|size| size.min(bytes)),
        Source::Ignore(pred, negated) => {
            let pred = exec.regs.pred(pred) ^ if negated { u32::MAX } else { 0 };
            std::array::from_fn(|i| if pred >> i & 1 != 0 { 0 } else { bytes })
        }
    };
    let mut whole = 0;
    for (lane, &size) in sizes.iter().enumerate() {
        whole |= u32::from(size == bytes) << lane;
    }
    whole &= mask;
    if let Some(read) = lanes(mask).find(|&lane| sizes[lane] != 0) {
        // Where nothing is read the address may be anything.
        let some = lanes(mask).fold(1 << read, |all, i| all | u32::from(sizes[i] != 0) << i);
        op.from.part(some, &from).aligned(bytes, Act::Read)?;
    }
    let mut values = [[0; LANES]; 2];
    if whole != 0 {
        let part = op.from.part(whole, &from);
        let reach = reach_global(exec, &part, bytes, Act::Read)?;
        watch(exec, &part, bytes, How::Read, false);
        let size = bytes.min(8);
        for (i, value) in values.iter_mut().enumerate().take(bytes.div_ceil(8) as usize) {
            // SAFETY: `reach` comes from a check of `bytes` a lane.
            *value = unsafe { gather_any(&reach, &part, size, bytes as usize, 8 * i) };
        }
        for value in &mut values {
            for (lane, value) in value.iter_mut().enumerate() {
                *value &= u64::from(whole >> lane & 1).wrapping_neg();
            }
        }
    }
    for lane in lanes(mask & !whole) {
        partial(exec, lane, from[lane], sizes[lane], &mut values)?;
    }
    let reach = reach_shared(exec, &to, bytes, Act::Write)?;
    if exec.grid.watched {
        let access = Access { how: How::AsyncWrite, ..access(exec, &to, bytes) };
        tell(exec, &to, access);
        exec.warp.pending.start(&to, bytes);
    }
    // SAFETY: as above.
    unsafe {
        match bytes {
            4 => scatter::<4>(&reach, &to, 4, 0, |lane| values[0][lane]),
            8 => scatter::<8>(&reach, &to, 8, 0, |lane| values[0][lane]),
            _ => {
                scatter::<8>(&reach, &to, 16, 0, |lane| values[0][lane]);
                scatter::<8>(&reach, &to, 16, 8, |lane| values[1][lane]);
            }
        }
    }
    Ok(())
}

/// The first bytes of a lane's source; the rest stays zero.
#[cold]
fn partial(
    exec: &mut Exec,
    lane: usize,
    address: u64,
    size: u32,
    values: &mut [W64; 2],
) -> Result<(), Fault> {
    if size == 0 {
        return Ok(());
    }
    let mut bytes = [0; 16];
    let read = &mut bytes[..size as usize];
    exec.grid.memory.read(address, read).map_err(|error| stray(error, lane, Act::Read))?;
    if exec.grid.watched {
        let part = Part::new(Place::Global, 1 << lane, [address; LANES]);
        watch(exec, &part, size, How::Read, false);
        if exec.grid.memory.is_written(address, u64::from(size)) == Ok(false) {
            uninitialised(exec, lane, address, size, Act::Read);
        }
    }
    let whole = u128::from_le_bytes(bytes);
    values[0][lane] = whole as u64;
    values[1][lane] = (whole >> 64) as u64;
    Ok(())
}

/// The asynchronous copies of a warp's lanes that were not waited for; kept for the watchman.
#[derive(Debug, Default)]
pub struct Pending {
    /// Groups that each lane has committed.
    committed: W32,
    copies: Vec<InFlight>,
}

#[derive(Debug)]
struct InFlight {
    mask: u32,
    bytes: u32,
    /// Offsets in shared memory.
    to: W32,
    /// Number of the group that each lane's copy will be, or is, in.
    group: W32,
}

impl Pending {
    fn start(&mut self, to: &Part, bytes: u32) {
        let (mask, group) = (to.mask, self.committed);
        self.copies.push(InFlight { mask, bytes, to: to.addresses.map(|at| at as u32), group });
    }

    /// Copies that are not waited for, every lane's counted.
    #[cfg(test)]
    pub fn open(&self) -> u32 {
        self.copies.iter().map(|copy| copy.mask.count_ones()).sum()
    }

    fn commit(&mut self, mask: u32) {
        for lane in lanes(mask) {
            self.committed[lane] += 1;
        }
    }
}

fn wait(exec: &mut Exec, open: Option<u32>) {
    let (mask, index) = (exec.mask, exec.warp.index);
    let Pending { committed, copies } = &mut exec.warp.pending;
    let block = &mut *exec.block;
    copies.retain_mut(|copy| {
        for lane in lanes(copy.mask & mask) {
            let done = match open {
                None => true,
                Some(open) => copy.group[lane].saturating_add(open) < committed[lane],
            };
            if done {
                copy.mask &= !(1 << lane);
                block.watch.async_done(index, lane, copy.to[lane], copy.bytes);
            }
        }
        copy.mask != 0
    });
}
