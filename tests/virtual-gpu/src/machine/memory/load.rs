//! `ld`, `ldu`.

use super::super::lower::{Lowering, Refusal};
use super::super::registers::{W64, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Place, Target, watch};
use super::decode::{self, Order, Reg, access_type, modifiers};
use super::elements::{load32, load64, put};
use super::reach::{reach_global, reach_shared};
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
    let all = modifiers(instruction, &[])?;
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
    op.at.for_parts(op, exec, part)?;
    op.order.after();
    Ok(())
}

fn part(op: &Load, exec: &mut Exec, part: &Part) -> Result<(), Fault> {
    let reach = match part.place {
        Place::Global | Place::Generic => reach_global(exec, part, op.width, Act::Read)?,
        Place::Shared => reach_shared(exec, part, op.width, Act::Read)?,
        Place::Local => return local(op, exec, part),
        Place::Param => return indexed_param(op, exec, part),
    };
    watch(exec, part, op.width, How::Read, op.order.strong);
    let (regs, from, signed) = (&mut exec.regs, (&reach, part), op.signed);
    let width = op.width as usize;
    for (i, &to) in op.to.iter().enumerate() {
        let at = i * op.size as usize;
        // SAFETY: `reach` comes from a check of `width` bytes a lane.
        unsafe {
            match op.size {
                1 => load32::<1>(regs, to, signed, from, (width, at)),
                2 => load32::<2>(regs, to, signed, from, (width, at)),
                4 => load32::<4>(regs, to, signed, from, (width, at)),
                _ => load64(regs, to, from, (width, at)),
            }
        }
    }
    Ok(())
}

/// A parameter by its name: the same for every lane.
fn param(op: &Load, exec: &mut Exec) -> Result<(), Fault> {
    let start = op.at.offset as usize;
    let bytes = start
        .checked_add(op.width as usize)
        .and_then(|end| exec.grid.params.get(start..end))
        .ok_or_else(|| {
            let addresses = [op.at.offset; 32];
            let part = Part::new(Place::Param, exec.mask, addresses);
            part.outside(op.width, Act::Read, exec.grid.params.len() as u64)
        })?;
    for (i, &to) in op.to.iter().enumerate() {
        let at = i * op.size as usize;
        let value = little_endian(&bytes[at..at + op.size as usize]);
        if op.size == 4 && !to.wide {
            exec.regs.set32(to.slot, exec.mask, &[value as u32; 32]);
        } else {
            put(&mut exec.regs, exec.mask, to, op.size, op.signed, &[value; 32]);
        }
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
