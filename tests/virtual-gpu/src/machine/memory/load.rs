//! `ld`, `ldu`.

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Reach, Target, reach_global, reach_shared, watch};
use super::decode::{self, Order, Reg, access_type, modifiers};
use super::elements::{gather, gather32, put, put32};
use crate::ptx::ast::Instruction;
use crate::watch::race::How;

#[derive(Debug, Clone)]
pub struct Load {
    at: Target,
    /// Bytes of an element, and of all of a lane's.
    size: u32,
    width: u32,
    signed: bool,
    order: Order,
    to: Vec<Reg>,
}

impl Load {
    /// A load of one element, unsigned.
    pub fn plain(at: Target, bytes: u32, to: Reg) -> Load {
        Load { at, size: bytes, width: bytes, signed: false, order: Order::default(), to: vec![to] }
    }
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Load, Refusal> {
    let mut all = modifiers(instruction, &[])?;
    // It may race with the atomics of others: whether it read the newest value is checked later.
    all.order.strong |= instruction.operands.get(1).is_some_and(|from| to.is_guess(from));
    let ty = access_type(instruction, &all)?;
    let width = ty.bytes() * all.vector as u32;
    if width > 16 {
        return Err(Refusal::form(
            instruction,
            "accesses of more than 16 bytes are not implemented",
        ));
    }
    let expected = 2 + usize::from(all.policy);
    if instruction.operands.len() != expected {
        return Err(Refusal::form(instruction, &format!("it takes {expected} operands")));
    }
    let regs =
        decode::registers(instruction, instruction.operands.first(), all.vector, ty, true, to)?;
    let at = decode::target(instruction, instruction.operands.get(1), all.space, to)?;
    Ok(Load { at, size: ty.bytes(), width, signed: ty.is_signed(), order: all.order, to: regs })
}

pub fn exec(op: &Load, exec: &mut Exec) -> Result<(), Fault> {
    if op.at.place == Place::Param && op.at.base.is_none() {
        return param(op, exec);
    }
    let addresses = op.at.addresses(exec);
    let mut rest = exec.mask;
    while rest != 0 {
        let part = op.at.part(rest, &addresses);
        rest &= !part.mask;
        match part.place {
            Place::Global | Place::Generic => {
                let reach = reach_global(exec, &part, op.width, Act::Read)?;
                linear(op, exec, &part, &reach);
            }
            Place::Shared => {
                let reach = reach_shared(exec, &part, op.width, Act::Read)?;
                linear(op, exec, &part, &reach);
            }
            Place::Local => local(op, exec, &part)?,
            Place::Param => indexed_param(op, exec, &part)?,
        }
    }
    op.order.after();
    Ok(())
}

#[inline(always)]
fn linear(op: &Load, exec: &mut Exec, part: &Part, reach: &Reach) {
    watch(exec, part, op.width, How::Read, op.order.strong);
    let width = op.width as usize;
    for (i, &to) in op.to.iter().enumerate() {
        let at = i * op.size as usize;
        let regs = &mut exec.regs;
        // SAFETY: `reach` comes from a check of `width` bytes a lane.
        unsafe {
            match op.size {
                1 => put32(regs, part.mask, to, 1, op.signed, &gather32::<1>(reach, width, at)),
                2 => put32(regs, part.mask, to, 2, op.signed, &gather32::<2>(reach, width, at)),
                4 => put32(regs, part.mask, to, 4, op.signed, &gather32::<4>(reach, width, at)),
                _ => regs.set64(to.slot, part.mask, &gather::<8>(reach, width, at)),
            }
        }
    }
}

/// A parameter by its name: the same for every lane.
fn param(op: &Load, exec: &mut Exec) -> Result<(), Fault> {
    let start = op.at.offset as usize;
    let bytes = start
        .checked_add(op.width as usize)
        .and_then(|end| exec.grid.params.get(start..end))
        .ok_or_else(|| {
            let addresses = [op.at.offset; 32];
            let part = Part { place: Place::Param, mask: exec.mask, addresses };
            part.outside(op.width, Act::Read, exec.grid.params.len() as u64)
        })?;
    for (i, &to) in op.to.iter().enumerate() {
        let at = i * op.size as usize;
        let value = little_endian(&bytes[at..at + op.size as usize]);
        put(&mut exec.regs, exec.mask, to, op.size, op.signed, &[value; 32]);
    }
    Ok(())
}

fn indexed_param(op: &Load, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    part.aligned(op.width, Act::Read)?;
    let params = exec.grid.params;
    let fits = |&at: &u64| {
        at.checked_add(u64::from(op.width)).is_some_and(|end| end <= params.len() as u64)
    };
    if !part.addresses.iter().all(fits) {
        return Err(part.outside(op.width, Act::Read, params.len() as u64));
    }
    for (i, &to) in op.to.iter().enumerate() {
        let at = i * op.size as usize;
        let value: W64 = part.addresses.map(|address| {
            let start = address as usize + at;
            little_endian(&params[start..start + op.size as usize])
        });
        put(&mut exec.regs, part.mask, to, op.size, op.signed, &value);
    }
    Ok(())
}

fn local(op: &Load, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    part.aligned(op.width, Act::Read)?;
    let mut values = [[0; 32]; 4];
    for lane in lanes(part.mask) {
        let bytes = u32::try_from(part.addresses[lane])
            .ok()
            .and_then(|at| exec.warp.local.get(lane, at, op.width))
            .ok_or_else(|| part.outside(op.width, Act::Read, exec.warp.local.bytes()))?;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(op.size as usize)) {
            value[lane] = little_endian(bytes);
        }
    }
    for (&to, value) in op.to.iter().zip(&values) {
        put(&mut exec.regs, part.mask, to, op.size, op.signed, value);
    }
    Ok(())
}

/// Up to 8 bytes as a number.
pub fn little_endian(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
}
