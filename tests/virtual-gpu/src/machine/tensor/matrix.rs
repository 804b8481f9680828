//! ldmatrix and stmatrix: 8 × 8 matrices of 16-bit elements between shared memory and registers.

use super::super::lower::{Lowering, Refusal};
use super::super::memory::address::{Act, Part, Place, Target, access, tell, watch};
use super::super::memory::decode;
use super::super::memory::reach::reach_shared;
use super::super::registers::{FULL, LANES, Slot, lanes};
use super::super::{Exec, Fault};
use super::{fragments, operands, vector};
use crate::ptx::ast::{Instruction, Operand, Space, Type};
use crate::watch::Kind;
use crate::watch::race::{Access, How};

/// Bytes of a matrix's row: 8 elements of 16 bits.
const ROW: usize = 16;

/// `ldmatrix.sync.aligned.m8n8.num{.trans}{.shared}.b16 d, [address]`.
#[derive(Debug, Clone)]
pub struct Load {
    d: Vec<Slot>,
    /// Lane 8i + j has the address of row j of matrix i.
    from: Target,
    trans: bool,
}

/// `stmatrix`, its mirror.
#[derive(Debug, Clone)]
pub struct Store {
    a: Vec<Slot>,
    to: Target,
    trans: bool,
}

pub fn lower_load(instruction: &Instruction, to: &mut Lowering) -> Result<Load, Refusal> {
    let [d, address] = operands(instruction)?;
    let (matrices, trans, from) = form(instruction, address, to)?;
    let d = vector(d);
    if d.len() != matrices {
        return Err(Refusal::form(instruction, "as many registers as matrices are needed"));
    }
    let d = d.iter().map(|d| to.dst(d, Type::B32)).collect::<Result<_, _>>()?;
    Ok(Load { d, from, trans })
}

pub fn lower_store(instruction: &Instruction, to: &mut Lowering) -> Result<Store, Refusal> {
    let [address, a] = operands(instruction)?;
    let (matrices, trans, rows) = form(instruction, address, to)?;
    let a = vector(a);
    if a.len() != matrices {
        return Err(Refusal::form(instruction, "as many registers as matrices are needed"));
    }
    let a = a.iter().map(|a| to.src(a, Type::B32)).collect::<Result<_, _>>()?;
    Ok(Store { a, to: rows, trans })
}

/// Number of matrices, `.trans`, and where their rows are.
fn form(
    instruction: &Instruction,
    address: &Operand,
    to: &mut Lowering,
) -> Result<(usize, bool, Target), Refusal> {
    let wrong = || {
        let why =
            "known is .sync.aligned.m8n8, .x1, .x2 or .x4, .trans or not, .shared or not, .b16";
        Refusal::form(instruction, why)
    };
    let ["sync", "aligned", "m8n8", number, rest @ .., "b16"] = instruction.modifiers.as_slice()
    else {
        return Err(wrong());
    };
    let matrices = match *number {
        "x1" => 1,
        "x2" => 2,
        "x4" => 4,
        _ => return Err(wrong()),
    };
    let (trans, space) = match rest {
        ["trans", space @ ..] => (true, space),
        space => (false, space),
    };
    let space = match space {
        [] => Space::Generic,
        ["shared" | "shared::cta"] => Space::Shared,
        _ => return Err(wrong()),
    };
    let target = decode::target(instruction, Some(address), space, to)?;
    if !matches!(target.place, Place::Shared | Place::Generic) {
        return Err(Refusal::form(instruction, "the matrices must be in shared memory"));
    }
    Ok((matrices, trans, target))
}

pub fn load(load: &Load, exec: &mut Exec) -> Result<(), Fault> {
    let rows = rows(&load.from, load.d.len(), Act::Read, exec)?;
    watch(exec, &rows, ROW as u32, How::Read, false);
    for (matrix, &d) in load.d.iter().enumerate() {
        let mut tile = [0; LANES];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut tile);
        let shared = exec.block.shared_bytes();
        for (to, &at) in bytes.chunks_exact_mut(ROW).zip(&rows.addresses[8 * matrix..]) {
            to.copy_from_slice(&shared[at as usize..][..ROW]);
        }
        let out = if load.trans { fragments::transpose(&tile) } else { tile };
        exec.regs.set32(d, FULL, &out);
    }
    Ok(())
}

pub fn store(store: &Store, exec: &mut Exec) -> Result<(), Fault> {
    let rows = rows(&store.to, store.a.len(), Act::Write, exec)?;
    // The rows as lane after lane gives their addresses.
    let mut values = [0; LANES * ROW];
    for (&a, values) in store.a.iter().zip(values.chunks_exact_mut(8 * ROW)) {
        let a = exec.regs.r32(a);
        let tile = if store.trans { fragments::transpose(a) } else { *a };
        values.copy_from_slice(bytemuck::cast_slice(&tile));
    }
    let written = |lane: usize| &values[lane * ROW..][..ROW];
    if exec.grid.watched {
        let shared = exec.block.shared_bytes();
        let same = |&lane: &usize| &shared[rows.addresses[lane] as usize..][..ROW] == written(lane);
        let unchanged = lanes(rows.mask).filter(same).fold(0, |mask, lane| mask | 1 << lane);
        let how = How::Write;
        let told = Access { how, unchanged, values: &values, ..access(exec, &rows, ROW as u32) };
        tell(exec, &rows, told);
    }
    let shared = exec.block.shared_bytes();
    for lane in lanes(rows.mask) {
        shared[rows.addresses[lane] as usize..][..ROW].copy_from_slice(written(lane));
    }
    Ok(())
}

/// The offsets in shared memory of the rows of so many matrices, checked.
fn rows(target: &Target, matrices: usize, act: Act, exec: &mut Exec) -> Result<Part, Fault> {
    let mask = u32::MAX >> (LANES - 8 * matrices);
    let rows = target.part(mask, &target.addresses(exec));
    let stray = |lane: usize| {
        let detail = "the address of a matrix's row is not in shared memory".to_owned();
        Err(Fault { kind: Kind::OutOfBounds, lane, detail })
    };
    if rows.place != Place::Shared {
        return stray(rows.first());
    }
    if rows.mask != mask {
        return stray((mask & !rows.mask).trailing_zeros() as usize);
    }
    reach_shared(exec, &rows, ROW as u32, act)?;
    Ok(rows)
}
