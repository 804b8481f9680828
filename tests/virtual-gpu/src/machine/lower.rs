//! From a function's syntax tree to slots: what the families' `lower` functions ask of their context.

use std::collections::HashMap;

use super::program::{Constant, FUNCTION_WINDOW, Special};
use super::registers::{Pred, Slot};
use crate::ptx::ast::{Body, Instruction, Operand, Statement, Type};

/// An instruction that the machine does not know; the loader adds its line and text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// A form of a known instruction that is not implemented, or not valid.
    pub fn form(instruction: &Instruction, why: &str) -> Refusal {
        Refusal(format!("{}: {why}", opcode(instruction)))
    }
}

/// `add.rn.f32`
pub fn opcode(instruction: &Instruction) -> String {
    let mut text = instruction.name.to_owned();
    for modifier in &instruction.modifiers {
        text.push('.');
        text.push_str(modifier);
    }
    text
}

/// What a name outside the registers stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symbol {
    /// Of module scope, global or constant: its address.
    Global(u64),
    /// Offset in the block's shared memory.
    Shared(u32),
    /// Offset in the frame's local memory: `.local` variables, `.param` variables of calls and of `.func`s.
    Local(u32),
    /// Offset in the kernel's parameters.
    Param(u32),
    /// Number of the function in its module.
    Function(u32),
    /// Index in the body's statements.
    Label(u32),
}

/// An operand in brackets: what is in `base`, if anything, and a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    pub base: Option<Base>,
    /// For a symbol: what it stands for in its own space; `symbol` says which.
    pub offset: i64,
    pub symbol: Option<Symbol>,
}

/// The register of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub slot: Slot,
    /// 64 bits, or 32.
    pub wide: bool,
}

/// A function on its way into slots.
pub struct Lowering<'a> {
    body: &'a Body<'a>,
    /// Of every register of the body, once it is used.
    slots: Vec<Option<Slot>>,
    preds: Vec<Option<Pred>>,
    symbols: HashMap<String, Symbol>,
    /// Offset and bytes of the variables in the frame's local memory.
    locals: HashMap<String, (u32, u32)>,
    constants: HashMap<(u64, bool), Slot>,
    specials: HashMap<Special, Slot>,
    carry: Option<Pred>,
    next_slot: u32,
    next_pred: u32,
}

impl<'a> Lowering<'a> {
    pub fn new(body: &'a Body<'a>, symbols: HashMap<String, Symbol>) -> Lowering<'a> {
        Lowering {
            body,
            slots: vec![None; body.registers.len()],
            preds: vec![None; body.registers.len()],
            symbols,
            locals: HashMap::new(),
            constants: HashMap::new(),
            specials: HashMap::new(),
            carry: None,
            next_slot: 0,
            next_pred: 0,
        }
    }

    /// Adds the variables of the frame's local memory: name to (offset, bytes).
    pub fn with_locals(mut self, locals: HashMap<String, (u32, u32)>) -> Lowering<'a> {
        for (name, (offset, _)) in &locals {
            self.symbols.insert(name.clone(), Symbol::Local(*offset));
        }
        self.locals = locals;
        self
    }

    /// Offset and bytes of a variable in the frame's local memory.
    pub fn local_variable(&self, name: &str) -> Option<(u32, u32)> {
        self.locals.get(name).copied()
    }

    /// The statements that a `.branchtargets` list names.
    pub fn branch_targets(&self, name: &str) -> Option<Vec<u32>> {
        let labels = self.body.statements.iter().find_map(|statement| match statement {
            Statement::BranchTargets { name: own, labels } if own == name => Some(labels),
            _ => None,
        })?;
        let statement = |label: &_| match self.symbols.get::<str>(label) {
            Some(Symbol::Label(statement)) => Some(*statement),
            _ => None,
        };
        labels.iter().map(|label| statement(&**label)).collect()
    }

    /// Declared type of a register.
    pub fn register_type(&self, register: u32) -> Type {
        self.body.registers[register as usize].ty
    }

    /// Bytes of a register operand's declared type; 0 for anything else.
    pub fn register_bytes(&self, operand: &Operand) -> u32 {
        match operand {
            Operand::Reg(r) => self.register_type(*r).bytes(),
            _ => 0,
        }
    }

    /// The slot of an operand that is read as `ty`: register, immediate (turned into the bits of `ty`) or
    /// special register. The register must be of the width of `ty` (8 bytes, or at most 4).
    pub fn src(&mut self, operand: &Operand, ty: Type) -> Result<Slot, Refusal> {
        match operand {
            Operand::Reg(r) => self.slot(*r, ty),
            Operand::Special("WARP_SZ") => Ok(self.constant(32, ty.bytes() == 8)),
            Operand::Special(name) => self.special(name, ty.bytes() == 8),
            Operand::Symbol { .. } => {
                let bits = self.symbol_bits(operand)?;
                Ok(self.constant(bits, ty.bytes() == 8))
            }
            _ => {
                let bits = immediate(operand, ty).ok_or_else(|| {
                    Refusal(format!("operand {operand:?} cannot be read as {ty:?}"))
                })?;
                Ok(self.constant(bits, ty.bytes() == 8))
            }
        }
    }

    /// The slot of a register that is read whatever its width, and whether it is a 64-bit one: the source
    /// of st and cvt may be wider than their type. An immediate becomes `ty`.
    pub fn src_any(&mut self, operand: &Operand, ty: Type) -> Result<(Slot, bool), Refusal> {
        match operand {
            Operand::Reg(r) => {
                let own = self.register_type(*r);
                Ok((self.slot(*r, own)?, own.bytes() == 8))
            }
            _ => Ok((self.src(operand, ty)?, ty.bytes() == 8)),
        }
    }

    /// The slot of a register that is written as `ty`. `_` gives a slot that nothing reads.
    pub fn dst(&mut self, operand: &Operand, ty: Type) -> Result<Slot, Refusal> {
        match operand {
            Operand::Reg(r) => self.slot(*r, ty),
            Operand::Sink => Ok(self.fresh(ty.bytes() == 8)),
            _ => Err(Refusal(format!("{operand:?} cannot be written"))),
        }
    }

    /// The slot of a register that is written whatever its width, and whether it is a 64-bit one: the
    /// destination of ld and cvt may be wider than their type.
    pub fn dst_any(&mut self, operand: &Operand, ty: Type) -> Result<(Slot, bool), Refusal> {
        match operand {
            Operand::Reg(r) => {
                let own = self.register_type(*r);
                Ok((self.slot(*r, own)?, own.bytes() == 8))
            }
            _ => Ok((self.dst(operand, ty)?, ty.bytes() == 8)),
        }
    }

    /// A predicate that is read, and whether it is negated (`!%p`).
    pub fn src_pred(&mut self, operand: &Operand) -> Result<(Pred, bool), Refusal> {
        match operand {
            Operand::Reg(r) => Ok((self.pred(*r)?, false)),
            Operand::Not(r) => Ok((self.pred(*r)?, true)),
            _ => Err(Refusal(format!("{operand:?} is no predicate"))),
        }
    }

    /// A predicate that is written; `_` gives one that nothing reads.
    pub fn dst_pred(&mut self, operand: &Operand) -> Result<Pred, Refusal> {
        match operand {
            Operand::Reg(r) => self.pred(*r),
            Operand::Sink => {
                self.next_pred += 1;
                Ok(Pred(self.next_pred - 1))
            }
            _ => Err(Refusal(format!("{operand:?} is no predicate"))),
        }
    }

    /// An operand in brackets.
    pub fn address(&mut self, operand: &Operand) -> Result<Address, Refusal> {
        let Operand::Address { base, offset } = operand else {
            return Err(Refusal(format!("{operand:?} is no address")));
        };
        match &**base {
            Operand::Reg(r) => {
                let ty = self.register_type(*r);
                let base = Base { slot: self.slot(*r, ty)?, wide: ty.bytes() == 8 };
                Ok(Address { base: Some(base), offset: *offset, symbol: None })
            }
            Operand::Symbol { name, offset: more } => {
                let symbol = self.symbol(name)?;
                let at = match symbol {
                    Symbol::Global(address) => address as i64,
                    Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at) => i64::from(at),
                    Symbol::Function(_) | Symbol::Label(_) => {
                        return Err(Refusal(format!("{name} is no variable")));
                    }
                };
                let offset = at.wrapping_add(*more).wrapping_add(*offset);
                Ok(Address { base: None, offset, symbol: Some(symbol) })
            }
            Operand::Int(value) => Ok(Address {
                base: None,
                offset: (*value as i64).wrapping_add(*offset),
                symbol: None,
            }),
            other => Err(Refusal(format!("{other:?} is no address"))),
        }
    }

    /// What a name stands for.
    pub fn symbol(&self, name: &str) -> Result<Symbol, Refusal> {
        self.symbols.get(name).copied().ok_or_else(|| Refusal(format!("{name} is not defined")))
    }

    /// A symbol as a number, as `mov` sees it: an address within its own space (global addresses are
    /// generic ones already).
    fn symbol_bits(&self, operand: &Operand) -> Result<u64, Refusal> {
        let Operand::Symbol { name, offset } = operand else {
            return Err(Refusal(format!("{operand:?} is no symbol")));
        };
        let base = match self.symbol(name)? {
            Symbol::Global(address) => address,
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at) => u64::from(at),
            Symbol::Function(number) => FUNCTION_WINDOW + u64::from(number),
            Symbol::Label(_) => return Err(Refusal(format!("{name} is a label, not a value"))),
        };
        Ok(base.wrapping_add_signed(*offset))
    }

    /// The slot of a constant.
    pub fn constant(&mut self, bits: u64, wide: bool) -> Slot {
        if let Some(slot) = self.constants.get(&(bits, wide)) {
            return *slot;
        }
        let slot = self.fresh(wide);
        self.constants.insert((bits, wide), slot);
        slot
    }

    /// A slot that no register has.
    pub fn fresh(&mut self, wide: bool) -> Slot {
        let slot = Slot(self.next_slot);
        self.next_slot += if wide { 2 } else { 1 };
        slot
    }

    /// A predicate that no register has.
    pub fn fresh_pred(&mut self) -> Pred {
        self.next_pred += 1;
        Pred(self.next_pred - 1)
    }

    /// The predicate that is the carry flag of extended-precision arithmetic, one for the whole function.
    pub fn carry(&mut self) -> Pred {
        let pred = self.carry.unwrap_or_else(|| self.fresh_pred());
        self.carry = Some(pred);
        pred
    }

    fn slot(&mut self, register: u32, ty: Type) -> Result<Slot, Refusal> {
        let declared = &self.body.registers[register as usize];
        if declared.ty == Type::Pred || declared.ty == Type::B128 {
            return Err(Refusal(format!("{} is a {:?} register", declared.name, declared.ty)));
        }
        if declared.ty.bytes() != ty.bytes() {
            let name = &declared.name;
            return Err(Refusal(format!("{name} is a {:?} register, used as {ty:?}", declared.ty)));
        }
        if let Some(slot) = self.slots[register as usize] {
            return Ok(slot);
        }
        let slot = self.fresh(declared.ty.bytes() == 8);
        self.slots[register as usize] = Some(slot);
        Ok(slot)
    }

    fn pred(&mut self, register: u32) -> Result<Pred, Refusal> {
        let declared = &self.body.registers[register as usize];
        if declared.ty != Type::Pred {
            return Err(Refusal(format!("{} is no predicate", declared.name)));
        }
        if let Some(pred) = self.preds[register as usize] {
            return Ok(pred);
        }
        let pred = self.fresh_pred();
        self.preds[register as usize] = Some(pred);
        Ok(pred)
    }

    fn special(&mut self, name: &str, wide: bool) -> Result<Slot, Refusal> {
        let special = special_register(name)
            .ok_or_else(|| Refusal(format!("special register {name} is not known here")))?;
        if wide {
            return Err(Refusal(format!("special register {name} has 32 bits")));
        }
        if let Some(slot) = self.specials.get(&special) {
            return Ok(*slot);
        }
        let slot = self.fresh(false);
        self.specials.insert(special, slot);
        Ok(slot)
    }

    /// Slots, predicates, constants and specials of the frame, once every instruction is lowered.
    pub fn finish(self) -> (u32, u32, Vec<Constant>, Vec<(Slot, Special)>) {
        let mut constants: Vec<Constant> = self
            .constants
            .into_iter()
            .map(|((bits, wide), slot)| Constant { slot, wide, bits })
            .collect();
        constants.sort_by_key(|constant| constant.slot);
        let mut specials: Vec<(Slot, Special)> =
            self.specials.into_iter().map(|(special, slot)| (slot, special)).collect();
        specials.sort_by_key(|(slot, _)| *slot);
        (self.next_slot, self.next_pred, constants, specials)
    }
}

/// An immediate as the bits of a register of `ty`, zero-extended; `None` where it makes no sense.
pub fn immediate(operand: &Operand, ty: Type) -> Option<u64> {
    let bits = match (operand, ty) {
        (Operand::Int(value), Type::F32 | Type::TF32) => {
            u64::from((*value as i64 as f32).to_bits())
        }
        (Operand::Int(value), Type::F64) => (*value as i64 as f64).to_bits(),
        (Operand::Int(value), _) => *value,
        (Operand::F32(bits), Type::F64) => f64::from(f32::from_bits(*bits)).to_bits(),
        (Operand::F32(bits), _) if ty.bytes() == 4 => u64::from(*bits),
        (Operand::F64(bits), Type::F32) => u64::from((f64::from_bits(*bits) as f32).to_bits()),
        (Operand::F64(bits), _) if ty.bytes() == 8 => *bits,
        _ => return None,
    };
    Some(match ty.bytes() {
        1 => bits & 0xFF,
        2 => bits & 0xFFFF,
        4 => bits & 0xFFFF_FFFF,
        _ => bits,
    })
}

fn special_register(name: &str) -> Option<Special> {
    let axis = |text: &str| match text {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    if let Some(dot) = name.find('.') {
        let axis = axis(&name[dot..])?;
        return match &name[..dot] {
            "%tid" => Some(Special::Tid(axis)),
            "%ntid" => Some(Special::NTid(axis)),
            "%ctaid" => Some(Special::CtaId(axis)),
            "%nctaid" => Some(Special::NCtaId(axis)),
            "%nclusterid" => Some(Special::NCtaId(axis)),
            "%clusterid" => Some(Special::CtaId(axis)),
            "%cluster_ctaid" => Some(Special::Zero),
            "%cluster_nctaid" => Some(Special::One),
            _ => None,
        };
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::NWarpId,
        "%smid" => Special::SmId,
        "%nsmid" => Special::NSmId,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%total_smem_size" => Special::TotalSmemSize,
        "%dynamic_smem_size" => Special::DynamicSmemSize,
        "%cluster_ctarank" => Special::Zero,
        "%cluster_nctarank" => Special::One,
        name if name.starts_with("%envreg") => Special::Zero,
        _ => return None,
    })
}
