//! `st`.

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{LANES, W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Target, access, tell};
use super::decode::{self, Order, Reg, access_type, modifiers};
use super::elements::{gather, gather_any, scatter, take};
use super::reach::{Reach, reach_global, reach_shared};
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
    op.at.for_parts(op, exec, part)
}

fn part(op: &Store, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    let reach = match part.place {
        Place::Global | Place::Generic => reach_global(exec, part, op.width, Act::Write)?,
        Place::Shared => reach_shared(exec, part, op.width, Act::Write)?,
        Place::Local => return local(op, exec, part),
        Place::Param => return Err(part.outside(op.width, Act::Write, 0)),
    };
    if exec.grid.watched {
        tell_write(op, exec, part, &reach);
    }
    let width = op.width as usize;
    for (i, from) in op.from.iter().enumerate() {
        let at = i * op.size as usize;
        // SAFETY: `reach` comes from a check of `width` bytes a lane; shared memory is borrowed by nobody
        // else while this instruction runs.
        unsafe {
            if from.wide {
                let value = exec.regs.r64(from.slot);
                put(op.size, &reach, part, width, at, |lane| value[lane]);
            } else {
                let value = exec.regs.r32(from.slot);
                put(op.size, &reach, part, width, at, |lane| u64::from(value[lane]));
            }
        }
    }
    Ok(())
}

/// `scatter` for a size that is known only now.
///
/// # Safety
/// As for `scatter`.
#[inline(always)]
unsafe fn put(
    size: u32,
    reach: &Reach,
    part: &Part,
    width: usize,
    at: usize,
    value: impl Fn(usize) -> u64,
) {
    // SAFETY: handed on to the caller.
    unsafe {
        match size {
            1 => scatter::<1>(reach, part, width, at, value),
            2 => scatter::<2>(reach, part, width, at, value),
            4 => scatter::<4>(reach, part, width, at, value),
            _ => scatter::<8>(reach, part, width, at, value),
        }
    }
}

/// Tells the watchman what is written, and which lanes find it there already.
fn tell_write(op: &Store, exec: &mut Exec, part: &Part, reach: &Reach) {
    let (how, strong, width) = (How::Write, op.order.strong, op.width as usize);
    if let ([from], 4) = (op.from.as_slice(), op.width)
        && !from.wide
    {
        // The register is what is written, as it lies there.
        let new = *exec.regs.r32(from.slot);
        let mut same = 0;
        let compare = |i: usize, old: u64| same |= u32::from(old as u32 == new[i]) << i;
        // SAFETY: `reach` comes from a check of 4 bytes a lane.
        unsafe { gather::<4>(reach, part, 4, 0, compare) };
        let (unchanged, values) = (same & part.mask, bytemuck::cast_slice(&new));
        tell(exec, part, Access { how, strong, unchanged, values, ..access(exec, part, 4) });
        return;
    }
    let size = op.size as usize;
    let keep = u64::MAX >> (64 - 8 * op.size);
    let mut values = [0; LANES * 16];
    let mut differ = 0;
    for (i, &from) in op.from.iter().enumerate() {
        let at = i * size;
        // SAFETY: `reach` comes from a check of `width` bytes a lane.
        let old = unsafe { gather_any(reach, part, op.size, width, at) };
        let new = take(&exec.regs, from);
        for (lane, (old, new)) in old.iter().zip(&new).enumerate() {
            differ |= u32::from((old ^ new) & keep != 0) << lane;
        }
        match size {
            1 => lay::<1>(&new, &mut values[at..], width),
            2 => lay::<2>(&new, &mut values[at..], width),
            4 => lay::<4>(&new, &mut values[at..], width),
            _ => lay::<8>(&new, &mut values[at..], width),
        }
    }
    let (unchanged, values) = (part.mask & !differ, &values[..LANES * width]);
    tell(exec, part, Access { how, strong, unchanged, values, ..access(exec, part, op.width) });
}

/// The low `S` bytes of each value, `width` bytes apart.
#[inline(always)]
fn lay<const S: usize>(values: &W64, to: &mut [u8], width: usize) {
    for (to, value) in to.chunks_mut(width).zip(values) {
        to[..S].copy_from_slice(&value.to_le_bytes()[..S]);
    }
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
