//! The modifiers of memory instructions: spaces, orders, scopes, cache hints, vectors, types.

use super::super::Exec;
use super::super::lower::{Lowering, Refusal, Symbol};
use super::super::registers::Slot;
use super::address::{Place, Target};
use crate::ptx::ast::{Instruction, Operand, Space, Type};

/// What an access orders beside itself (PTX manual, chapter 8: memory consistency model).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Order {
    pub acquire: bool,
    pub release: bool,
    /// Volatile, relaxed, acquire or release: allowed to race.
    pub strong: bool,
    /// Scope of a block (or of a cluster, which is one here), not of the device or the system.
    pub block: bool,
}

impl Order {
    /// Earlier accesses of this thread become visible before what follows.
    pub fn before(self, exec: &mut Exec) {
        if self.release {
            if exec.grid.watched {
                exec.block.watch.fence(exec.grid, exec.warp.index, !self.block);
            }
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
    }

    /// Later accesses of this thread see what was visible before.
    pub fn after(self) {
        if self.acquire {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        }
    }
}

/// The modifiers of one instruction.
#[derive(Debug, Clone, Copy)]
pub struct Modifiers<'a> {
    pub space: Space,
    pub order: Order,
    /// Elements of a vector; 1 without one.
    pub vector: usize,
    pub ty: Option<Type>,
    /// What is neither of these: the operation of an atomic.
    pub op: Option<&'a str>,
    /// `.L2::cache_hint`: one operand more.
    pub policy: bool,
    pub noftz: bool,
}

/// Sorts the modifiers of `ld`, `st`, `atom`, `red` and the like.
pub fn modifiers<'a>(
    instruction: &Instruction<'a>,
    ops: &[&str],
) -> Result<Modifiers<'a>, Refusal> {
    let mut all = Modifiers {
        space: Space::Generic,
        order: Order::default(),
        vector: 1,
        ty: None,
        op: None,
        policy: false,
        noftz: false,
    };
    for &modifier in &instruction.modifiers {
        match modifier {
            "weak" | "gpu" | "sys" => {}
            "cta" | "cluster" => all.order.block = true,
            "ca" | "cg" | "cs" | "lu" | "cv" | "nc" | "wb" | "wt" => {}
            "volatile" | "relaxed" | "mmio" => all.order.strong = true,
            "acquire" => all.order = Order { acquire: true, strong: true, ..all.order },
            "release" => all.order = Order { release: true, strong: true, ..all.order },
            "acq_rel" => {
                all.order = Order { acquire: true, release: true, strong: true, ..all.order }
            }
            "global" => all.space = Space::Global,
            "const" => all.space = Space::Const,
            "local" => all.space = Space::Local,
            "param" | "param::entry" | "param::func" => all.space = Space::Param,
            // A cluster is one block here, so its shared memory is the block's.
            "shared" | "shared::cta" | "shared::cluster" => all.space = Space::Shared,
            "v2" => all.vector = 2,
            "v4" => all.vector = 4,
            "noftz" => all.noftz = true,
            "L2::cache_hint" => all.policy = true,
            hint if hint.starts_with("L1::") || hint.starts_with("L2::") => {}
            op if ops.contains(&op) && all.op.is_none() => all.op = Some(op),
            other => match Type::from_name(other) {
                Some(ty) if all.ty.is_none() => all.ty = Some(ty),
                _ => {
                    let why = format!("modifier .{other} is not known here");
                    return Err(Refusal::form(instruction, &why));
                }
            },
        }
    }
    Ok(all)
}

/// The type of an access of 1, 2, 4 or 8 bytes.
pub fn access_type(instruction: &Instruction, all: &Modifiers) -> Result<Type, Refusal> {
    match all.ty {
        Some(ty) if matches!(ty.bytes(), 1 | 2 | 4 | 8) => Ok(ty),
        Some(ty) => {
            Err(Refusal::form(instruction, &format!("accesses of {ty:?} are not implemented")))
        }
        None => Err(Refusal::form(instruction, "it has no type")),
    }
}

/// An address operand with the space that it is in.
pub fn target(
    instruction: &Instruction,
    operand: Option<&Operand>,
    space: Space,
    to: &mut Lowering,
) -> Result<Target, Refusal> {
    let operand = operand.ok_or_else(|| Refusal::form(instruction, "the address is missing"))?;
    let address = to.address(operand)?;
    let wrong = |what: &str| Refusal::form(instruction, &format!("{what} is not in its space"));
    let (place, framed) = match (space, address.symbol) {
        (Space::Generic, None) => (Place::Generic, false),
        (Space::Global | Space::Const, None) => (Place::Global, false),
        (Space::Shared, None) => (Place::Shared, false),
        (Space::Local, None) => (Place::Local, false),
        (Space::Param, None) => (Place::Param, false),
        (Space::Global | Space::Const | Space::Generic, Some(Symbol::Global(_))) => {
            (Place::Global, false)
        }
        (Space::Shared | Space::Generic, Some(Symbol::Shared(_))) => (Place::Shared, false),
        (Space::Local | Space::Param | Space::Generic, Some(Symbol::Local(_))) => {
            (Place::Local, true)
        }
        (Space::Param | Space::Generic, Some(Symbol::Param(_))) => (Place::Param, false),
        (_, Some(_)) => return Err(wrong("the variable")),
    };
    Ok(Target { base: address.base, offset: address.offset as u64, place, framed })
}

/// A register with what `ld` and `st` must know of it.
#[derive(Debug, Clone, Copy)]
pub struct Reg {
    pub slot: Slot,
    pub wide: bool,
    /// Bytes of the declared type; those of the access for what is no register.
    pub bytes: u32,
}

/// The registers of `{%r1, %r2}`, or the one that stands alone.
pub fn registers(
    instruction: &Instruction,
    operand: Option<&Operand>,
    count: usize,
    ty: Type,
    written: bool,
    to: &mut Lowering,
) -> Result<Vec<Reg>, Refusal> {
    let operand = operand.ok_or_else(|| Refusal::form(instruction, "an operand is missing"))?;
    let elements = match operand {
        Operand::Vector(elements) => elements.as_slice(),
        one => std::slice::from_ref(one),
    };
    if elements.len() != count {
        let why = format!("{} registers for {count} elements", elements.len());
        return Err(Refusal::form(instruction, &why));
    }
    let mut regs = Vec::with_capacity(count);
    for element in elements {
        let (slot, wide) =
            if written { to.dst_any(element, ty)? } else { to.src_any(element, ty)? };
        let bytes = match to.register_bytes(element) {
            0 => ty.bytes(),
            bytes => bytes,
        };
        if bytes < ty.bytes() {
            return Err(Refusal::form(instruction, "the register is narrower than the access"));
        }
        regs.push(Reg { slot, wide, bytes });
    }
    Ok(regs)
}
