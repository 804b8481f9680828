//! mov in all its forms, cvta, isspacep, clocks.

use super::Exec;
use super::lower::{Lowering, Refusal, Symbol};
use super::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use super::registers::{FULL, LANES, Pred, Slot};
use crate::ptx::ast::{Instruction, Operand, Type};

#[derive(Debug, Clone)]
pub enum Op {
    Move32 {
        d: Slot,
        a: Slot,
    },
    Move64 {
        d: Slot,
        a: Slot,
    },
    MovePred {
        d: Pred,
        a: Pred,
        negated: bool,
    },
    SetPred {
        d: Pred,
        value: bool,
    },
    /// `mov.b32 d, {a, b}`: the first is the low half.
    Pack16x2 {
        d: Slot,
        a: [Slot; 2],
    },
    Pack16x4 {
        d: Slot,
        a: [Slot; 4],
    },
    Pack32x2 {
        d: Slot,
        a: [Slot; 2],
    },
    Unpack16x2 {
        d: [Slot; 2],
        a: Slot,
    },
    Unpack16x4 {
        d: [Slot; 4],
        a: Slot,
    },
    Unpack32x2 {
        d: [Slot; 2],
        a: Slot,
    },
    /// The address of a variable in the frame's local memory.
    LocalAddress {
        d: Slot,
        wide: bool,
        offset: u32,
    },
    /// cvta and cvta.to: an offset in a window to a generic address, and back.
    Rebase {
        d: Slot,
        a: Slot,
        by: u64,
    },
    /// Whether a generic address lies in a window, or (`outside`) in none.
    InWindow {
        d: Pred,
        a: Slot,
        window: Option<u64>,
    },
    /// Warp instructions executed: %clock, %clock64, %globaltimer (one a nanosecond).
    Clock {
        d: Slot,
        wide: bool,
        high: bool,
    },
    GridId {
        d: Slot,
    },
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    match instruction.name {
        "mov" => lower_mov(instruction, to).map(Some),
        "cvta" => lower_cvta(instruction, to).map(Some),
        "isspacep" => lower_isspacep(instruction, to).map(Some),
        _ => Ok(None),
    }
}

fn lower_mov(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let form = |why| Refusal::form(instruction, why);
    let ([ty], [dst, src]) = (instruction.modifiers.as_slice(), instruction.operands.as_slice())
    else {
        return Err(form("one type and two operands are wanted"));
    };
    let ty = Type::from_name(ty).ok_or_else(|| form("not a type"))?;
    match (dst, src) {
        _ if ty == Type::Pred => {
            let d = to.dst_pred(dst)?;
            if let Operand::Int(value) = src {
                return Ok(Op::SetPred { d, value: *value != 0 });
            }
            let (a, negated) = to.src_pred(src)?;
            Ok(Op::MovePred { d, a, negated })
        }
        (Operand::Vector(parts), _) => {
            let a = to.src(src, ty)?;
            let mut part = |i: usize, ty| to.dst(&parts[i], ty);
            match (ty.bytes(), parts.len()) {
                (4, 2) => Ok(Op::Unpack16x2 { d: [part(0, Type::B16)?, part(1, Type::B16)?], a }),
                (8, 2) => Ok(Op::Unpack32x2 { d: [part(0, Type::B32)?, part(1, Type::B32)?], a }),
                (8, 4) => {
                    let b16 = Type::B16;
                    let d = [part(0, b16)?, part(1, b16)?, part(2, b16)?, part(3, b16)?];
                    Ok(Op::Unpack16x4 { d, a })
                }
                _ => Err(form("this vector form is not known")),
            }
        }
        (_, Operand::Vector(parts)) => {
            let d = to.dst(dst, ty)?;
            let mut part = |i: usize, ty| to.src(&parts[i], ty);
            match (ty.bytes(), parts.len()) {
                (4, 2) => Ok(Op::Pack16x2 { d, a: [part(0, Type::B16)?, part(1, Type::B16)?] }),
                (8, 2) => Ok(Op::Pack32x2 { d, a: [part(0, Type::B32)?, part(1, Type::B32)?] }),
                (8, 4) => {
                    let b16 = Type::B16;
                    let a = [part(0, b16)?, part(1, b16)?, part(2, b16)?, part(3, b16)?];
                    Ok(Op::Pack16x4 { d, a })
                }
                _ => Err(form("this vector form is not known")),
            }
        }
        (_, Operand::Special(name @ ("%clock" | "%clock_hi" | "%clock64"))) => {
            let wide = ty.bytes() == 8;
            Ok(Op::Clock { d: to.dst(dst, ty)?, wide, high: *name == "%clock_hi" })
        }
        (_, Operand::Special(name @ ("%globaltimer" | "%globaltimer_lo" | "%globaltimer_hi"))) => {
            let wide = ty.bytes() == 8;
            Ok(Op::Clock { d: to.dst(dst, ty)?, wide, high: *name == "%globaltimer_hi" })
        }
        (_, Operand::Special("%gridid")) if ty.bytes() == 8 => {
            Ok(Op::GridId { d: to.dst(dst, ty)? })
        }
        (_, Operand::Symbol { name, offset }) => {
            if let Symbol::Local(at) = to.symbol(name)? {
                let offset = u32::try_from(i64::from(at).saturating_add(*offset))
                    .map_err(|_| form("an address outside local memory"))?;
                return Ok(Op::LocalAddress { d: to.dst(dst, ty)?, wide: ty.bytes() == 8, offset });
            }
            lower_plain_mov(dst, src, ty, to)
        }
        _ => lower_plain_mov(dst, src, ty, to),
    }
}

fn lower_plain_mov(
    dst: &Operand,
    src: &Operand,
    ty: Type,
    to: &mut Lowering,
) -> Result<Op, Refusal> {
    let (d, a) = (to.dst(dst, ty)?, to.src(src, ty)?);
    if ty.bytes() == 2 && matches!(src, Operand::Special(_)) {
        // As PTX 1 had it: special registers have 32 bits, of which these are the lower ones.
        return Ok(Op::Unpack16x2 { d: [d, to.fresh(false)], a });
    }
    Ok(if ty.bytes() == 8 { Op::Move64 { d, a } } else { Op::Move32 { d, a } })
}

fn window(space: &str) -> Option<u64> {
    match space {
        "shared" | "shared::cta" | "shared::cluster" => Some(SHARED_WINDOW),
        "local" => Some(LOCAL_WINDOW),
        "param" | "param::entry" => Some(PARAM_WINDOW),
        _ => None,
    }
}

fn lower_cvta(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let form = |why| Refusal::form(instruction, why);
    let [dst, src] = instruction.operands.as_slice() else {
        return Err(form("two operands are wanted"));
    };
    let (back, space) = match instruction.modifiers.as_slice() {
        ["to", space, "u64"] => (true, *space),
        [space, "u64"] => (false, *space),
        _ => return Err(form("only 64-bit addresses are known")),
    };
    let by = match (space, window(space)) {
        ("global" | "const", _) => 0,
        (_, Some(window)) => window,
        _ => return Err(form("this state space is not known")),
    };
    let d = to.dst(dst, Type::U64)?;
    if let Operand::Symbol { name, offset } = src
        && let Symbol::Local(at) = to.symbol(name)?
    {
        let offset = i64::from(at).saturating_add(*offset);
        // A local variable's own address depends on the frame; only a mov can ask for it.
        return Err(form(&format!("cvta of the local variable {name} at {offset}: mov it first")));
    }
    let a = to.src(src, Type::U64)?;
    Ok(Op::Rebase { d, a, by: if back { by.wrapping_neg() } else { by } })
}

fn lower_isspacep(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let form = |why| Refusal::form(instruction, why);
    let ([space], [dst, src]) = (instruction.modifiers.as_slice(), instruction.operands.as_slice())
    else {
        return Err(form("one state space and two operands are wanted"));
    };
    let window = match *space {
        "global" => None,
        space => Some(window(space).ok_or_else(|| form("this state space is not known"))?),
    };
    Ok(Op::InWindow { d: to.dst_pred(dst)?, a: to.src(src, Type::U64)?, window })
}

/// mov never fails.
pub fn exec(op: &Op, exec: &mut Exec) {
    let mask = exec.mask;
    let regs = &mut exec.regs;
    match *op {
        Op::Move32 { d, a } => {
            let a = *regs.r32(a);
            regs.set32(d, mask, &a);
        }
        Op::Move64 { d, a } => {
            let a = *regs.r64(a);
            regs.set64(d, mask, &a);
        }
        Op::MovePred { d, a, negated } => {
            let a = regs.pred(a) ^ if negated { FULL } else { 0 };
            regs.set_pred(d, mask, a);
        }
        Op::SetPred { d, value } => regs.set_pred(d, mask, if value { FULL } else { 0 }),
        Op::Pack16x2 { d, a: [a, b] } => {
            regs.map32x2(mask, d, a, b, |a, b| (a & 0xFFFF) | b << 16);
        }
        Op::Pack16x4 { d, a } => {
            let parts = a.map(|slot| *regs.r32(slot));
            let out = std::array::from_fn(|i| {
                (0..4).fold(0, |word, k| word | u64::from(parts[k][i] & 0xFFFF) << (16 * k))
            });
            regs.set64(d, mask, &out);
        }
        Op::Pack32x2 { d, a: [a, b] } => {
            let (a, b) = (*regs.r32(a), *regs.r32(b));
            let out = std::array::from_fn(|i| u64::from(a[i]) | u64::from(b[i]) << 32);
            regs.set64(d, mask, &out);
        }
        Op::Unpack16x2 { d: [low, high], a } => {
            let a = *regs.r32(a);
            regs.set32(low, mask, &a.map(|a| a & 0xFFFF));
            regs.set32(high, mask, &a.map(|a| a >> 16));
        }
        Op::Unpack16x4 { d, a } => {
            let a = *regs.r64(a);
            for (k, d) in d.into_iter().enumerate() {
                regs.set32(d, mask, &a.map(|a| (a >> (16 * k)) as u32 & 0xFFFF));
            }
        }
        Op::Unpack32x2 { d: [low, high], a } => {
            let a = *regs.r64(a);
            regs.set32(low, mask, &a.map(|a| a as u32));
            regs.set32(high, mask, &a.map(|a| (a >> 32) as u32));
        }
        Op::LocalAddress { d, wide, offset } => {
            let at = exec.warp.local_base.wrapping_add(offset);
            if wide {
                regs.set64(d, mask, &[u64::from(at); LANES]);
            } else {
                regs.set32(d, mask, &[at; LANES]);
            }
        }
        Op::Rebase { d, a, by } => regs.map64(mask, d, a, |a| a.wrapping_add(by)),
        Op::InWindow { d, a, window } => {
            let inside = |a: u64, window: u64| a.wrapping_sub(window) < WINDOW_BYTES;
            let a = *regs.r64(a);
            let bits = (0..LANES).fold(0, |bits, i| {
                let yes = match window {
                    Some(window) => inside(a[i], window),
                    None => ![SHARED_WINDOW, LOCAL_WINDOW, PARAM_WINDOW]
                        .into_iter()
                        .any(|window| inside(a[i], window)),
                };
                bits | u32::from(yes) << i
            });
            regs.set_pred(d, mask, bits);
        }
        Op::Clock { d, wide, high } => {
            let now = exec.warp.cycles;
            if wide {
                regs.set64(d, mask, &[now; LANES]);
            } else {
                regs.set32(d, mask, &[if high { now >> 32 } else { now } as u32; LANES]);
            }
        }
        Op::GridId { d } => regs.set64(d, mask, &[exec.grid.launch; LANES]),
    }
}
