//! `st`.

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{LANES, W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Reach, Target, access, reach_global, reach_shared, tell};
use super::decode::{self, Order, Reg, access_type, modifiers};
use super::elements::{gather, scatter, take};
use crate::ptx::ast::{Instruction, Space};
use crate::watch::race::{Access, How};

#[derive(Debug, Clone)]
pub struct Store {
    at: Target,
    /// Bytes of an element, and of all of a lane's.
    size: u32,
    width: u32,
    order: Order,
    from: Vec<Reg>,
}

impl Store {
    /// A store of one element.
    pub fn plain(at: Target, bytes: u32, from: Reg) -> Store {
        Store { at, size: bytes, width: bytes, order: Order::default(), from: vec![from] }
    }
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Store, Refusal> {
    let all = modifiers(instruction, &[])?;
    let ty = access_type(instruction, &all)?;
    let width = ty.bytes() * all.vector as u32;
    if width > 16 {
        return Err(Refusal::form(
            instruction,
            "accesses of more than 16 bytes are not implemented",
        ));
    }
    if all.space == Space::Const {
        return Err(Refusal::form(instruction, "constants cannot be written"));
    }
    let expected = 2 + usize::from(all.policy);
    if instruction.operands.len() != expected {
        return Err(Refusal::form(instruction, &format!("it takes {expected} operands")));
    }
    let at = decode::target(instruction, instruction.operands.first(), all.space, to)?;
    if at.place == Place::Param {
        return Err(Refusal::form(instruction, "the parameters of a kernel cannot be written"));
    }
    let from =
        decode::registers(instruction, instruction.operands.get(1), all.vector, ty, false, to)?;
    Ok(Store { at, size: ty.bytes(), width, order: all.order, from })
}

pub fn exec(op: &Store, exec: &mut Exec) -> Result<(), Fault> {
    op.order.before(exec);
    let addresses = op.at.addresses(exec);
    let mut rest = exec.mask;
    while rest != 0 {
        let part = op.at.part(rest, &addresses);
        rest &= !part.mask;
        match part.place {
            Place::Global | Place::Generic => {
                let reach = reach_global(exec, &part, op.width, Act::Write)?;
                linear(op, exec, &part, &reach);
            }
            Place::Shared => {
                let reach = reach_shared(exec, &part, op.width, Act::Write)?;
                linear(op, exec, &part, &reach);
            }
            Place::Local => local(op, exec, &part)?,
            Place::Param => return Err(part.outside(op.width, Act::Write, 0)),
        }
    }
    Ok(())
}

#[inline(always)]
fn linear(op: &Store, exec: &mut Exec, part: &Part, reach: &Reach) {
    if exec.grid.watched {
        tell_write(op, exec, part, reach);
    }
    let (mask, width) = (part.mask, op.width as usize);
    for (i, from) in op.from.iter().enumerate() {
        let at = i * op.size as usize;
        // SAFETY: `reach` comes from a check of `width` bytes a lane; shared memory is borrowed by nobody
        // else while this instruction runs.
        unsafe {
            if from.wide {
                let value = exec.regs.r64(from.slot);
                put(op.size, reach, mask, width, at, |lane| value[lane]);
            } else {
                let value = exec.regs.r32(from.slot);
                put(op.size, reach, mask, width, at, |lane| u64::from(value[lane]));
            }
        }
    }
}

/// `scatter` for a size that is known only now.
///
/// # Safety
/// As for `scatter`.
#[inline(always)]
unsafe fn put(
    size: u32,
    reach: &Reach,
    mask: u32,
    width: usize,
    at: usize,
    value: impl Fn(usize) -> u64,
) {
    // SAFETY: handed on to the caller.
    unsafe {
        match size {
            1 => scatter::<1>(reach, mask, width, at, value),
            2 => scatter::<2>(reach, mask, width, at, value),
            4 => scatter::<4>(reach, mask, width, at, value),
            _ => scatter::<8>(reach, mask, width, at, value),
        }
    }
}

/// Tells the watchman what is written, and which lanes find it there already.
fn tell_write(op: &Store, exec: &mut Exec, part: &Part, reach: &Reach) {
    let (size, width) = (op.size as usize, op.width as usize);
    let keep = u64::MAX >> (64 - 8 * op.size);
    let mut values = [0; LANES * 16];
    let mut differ = 0;
    for (i, &from) in op.from.iter().enumerate() {
        let at = i * size;
        // SAFETY: `reach` comes from a check of `width` bytes a lane.
        let old: W64 = unsafe {
            match op.size {
                1 => gather::<1>(reach, width, at),
                2 => gather::<2>(reach, width, at),
                4 => gather::<4>(reach, width, at),
                _ => gather::<8>(reach, width, at),
            }
        };
        let new = take(&exec.regs, from);
        for (lane, (old, new)) in old.iter().zip(&new).enumerate() {
            differ |= u32::from((old ^ new) & keep != 0) << lane;
            values[lane * width + at..][..size].copy_from_slice(&new.to_le_bytes()[..size]);
        }
    }
    let access = Access {
        how: How::Write,
        strong: op.order.strong,
        unchanged: part.mask & !differ,
        values: &values[..LANES * width],
        ..access(exec, part, op.width)
    };
    tell(exec, part, access);
}

fn local(op: &Store, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    part.aligned(op.width, Act::Write)?;
    let size = op.size as usize;
    let end = exec.warp.local.bytes();
    for (i, &from) in op.from.iter().enumerate() {
        let value = take(&exec.regs, from);
        for lane in lanes(part.mask) {
            let bytes = u32::try_from(part.addresses[lane])
                .ok()
                .and_then(|at| exec.warp.local.get_mut(lane, at, op.width))
                .ok_or_else(|| part.outside(op.width, Act::Write, end))?;
            bytes[i * size..][..size].copy_from_slice(&value[lane].to_le_bytes()[..size]);
        }
    }
    Ok(())
}
