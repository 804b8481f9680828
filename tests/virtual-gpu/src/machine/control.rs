//! Branches, calls, barriers, fences, traps: what moves program counters. `strand` executes them.

use super::lower::{Lowering, Refusal, Symbol};
use super::registers::{Pred, Slot};
use crate::ptx::ast::{Instruction, Operand, Type};

#[derive(Debug, Clone)]
pub enum Op {
    /// The target is the index of a statement until the function is laid out, then of an instruction.
    Branch {
        target: u32,
    },
    /// brx.idx: the register picks the target.
    BranchIndexed {
        index: Slot,
        targets: Box<[u32]>,
    },
    Call(Box<Call>),
    Ret,
    Exit,
    Trap,
    Barrier(Barrier),
    /// fence and membar; `wide` ones order memory beyond the block.
    Fence {
        wide: bool,
    },
    /// nanosleep, pmevent, and the like: nothing that can be seen. A nanosleep lets other warps run.
    Nothing {
        pause: bool,
    },
}

/// A call, with where its arguments and results lie in the caller's local memory (offset, bytes).
#[derive(Debug, Clone)]
pub struct Call {
    pub target: Target,
    pub params: Vec<(u32, u32)>,
    pub returns: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The function's number in its module.
    Function(u32),
    /// A register that holds a function's address.
    Pointer(Slot),
    /// int vprintf(const char *format, const void *arguments)
    Vprintf,
    /// void __assertfail(message, file, u32 line, function, size_t)
    AssertFail,
}

/// bar and barrier.
#[derive(Debug, Clone, Copy)]
pub struct Barrier {
    pub id: Slot,
    /// Threads that take part; all of the block without.
    pub count: Option<Slot>,
    pub kind: BarrierKind,
    /// All lanes of the warp must come together.
    pub aligned: bool,
}

#[derive(Debug, Clone, Copy)]
pub enum BarrierKind {
    Sync,
    Arrive,
    /// Counts the threads whose predicate is true.
    Popc {
        d: Slot,
        p: Pred,
        negated: bool,
    },
    And {
        d: Pred,
        p: Pred,
        negated: bool,
    },
    Or {
        d: Pred,
        p: Pred,
        negated: bool,
    },
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    Ok(Some(match instruction.name {
        "bra" => Op::Branch { target: label(instruction, instruction.operands.first(), to)? },
        "brx" => lower_indexed(instruction, to)?,
        "call" => Op::Call(Box::new(lower_call(instruction, to)?)),
        "ret" => Op::Ret,
        "exit" => Op::Exit,
        "trap" => Op::Trap,
        "bar" if instruction.modifiers.first() == Some(&"warp") => return Ok(None),
        "bar" | "barrier" => Op::Barrier(lower_barrier(instruction, to)?),
        "fence" | "membar" => lower_fence(instruction)?,
        "nanosleep" => Op::Nothing { pause: true },
        "pmevent" | "brkpt" => Op::Nothing { pause: false },
        _ => return Ok(None),
    }))
}

fn label(
    instruction: &Instruction,
    operand: Option<&Operand>,
    to: &Lowering,
) -> Result<u32, Refusal> {
    match operand {
        Some(Operand::Symbol { name, .. }) => match to.symbol(name)? {
            Symbol::Label(statement) => Ok(statement),
            _ => Err(Refusal::form(instruction, &format!("{name} is no label"))),
        },
        _ => Err(Refusal::form(instruction, "a label is wanted")),
    }
}

fn lower_indexed(instruction: &Instruction, to: &mut Lowering) -> Result<Op, Refusal> {
    let [index, Operand::Symbol { name, .. }] = instruction.operands.as_slice() else {
        return Err(Refusal::form(instruction, "an index and a list of targets are wanted"));
    };
    let targets = to
        .branch_targets(name)
        .ok_or_else(|| Refusal::form(instruction, &format!("{name} is no list of targets")))?;
    Ok(Op::BranchIndexed { index: to.src(index, Type::U32)?, targets: targets.into() })
}

fn lower_call(instruction: &Instruction, to: &mut Lowering) -> Result<Call, Refusal> {
    let [Operand::List(returns), callee, Operand::List(params), ..] =
        instruction.operands.as_slice()
    else {
        return Err(Refusal::form(instruction, "lists of results and parameters are wanted"));
    };
    let mut place = |operand: &Operand| match operand {
        Operand::Symbol { name, offset: 0 } => to
            .local_variable(name)
            .ok_or_else(|| Refusal::form(instruction, &format!("{name} is no .param variable"))),
        _ => Err(Refusal::form(instruction, "only .param variables can be passed")),
    };
    let returns = returns.iter().map(&mut place).collect::<Result<Vec<_>, _>>()?;
    let params = params.iter().map(&mut place).collect::<Result<Vec<_>, _>>()?;
    let target = match callee {
        Operand::Symbol { name, .. } if name == "vprintf" => Target::Vprintf,
        Operand::Symbol { name, .. } if name == "__assertfail" => Target::AssertFail,
        Operand::Symbol { name, .. } => match to.symbol(name)? {
            Symbol::Function(number) => Target::Function(number),
            _ => return Err(Refusal::form(instruction, &format!("{name} is no function"))),
        },
        Operand::Reg(_) => Target::Pointer(to.src(callee, Type::U64)?),
        _ => return Err(Refusal::form(instruction, "what is called is no function")),
    };
    Ok(Call { target, params, returns })
}

fn lower_barrier(instruction: &Instruction, to: &mut Lowering) -> Result<Barrier, Refusal> {
    let form = |why| Refusal::form(instruction, why);
    let mut modifiers: Vec<&str> = instruction.modifiers.clone();
    modifiers.retain(|modifier| *modifier != "cta");
    // `bar` is `barrier.aligned`.
    let aligned = instruction.name == "bar" || modifiers.contains(&"aligned");
    modifiers.retain(|modifier| *modifier != "aligned");
    let operands = instruction.operands.as_slice();
    let mut number = |operand: &Operand| to.src(operand, Type::U32);
    match (modifiers.as_slice(), operands) {
        (["sync"], [id]) => {
            Ok(Barrier { id: number(id)?, count: None, kind: BarrierKind::Sync, aligned })
        }
        (["sync"], [id, count]) => {
            let (id, count) = (number(id)?, Some(number(count)?));
            Ok(Barrier { id, count, kind: BarrierKind::Sync, aligned })
        }
        (["arrive"], [id, count]) => {
            let (id, count) = (number(id)?, Some(number(count)?));
            Ok(Barrier { id, count, kind: BarrierKind::Arrive, aligned })
        }
        (["red", op, ty], [d, id, rest @ .., p]) if rest.len() <= 1 => {
            let id = number(id)?;
            let count = rest.first().map(number).transpose()?;
            let (p, negated) = to.src_pred(p)?;
            let kind = match (*op, *ty) {
                ("popc", "u32") => BarrierKind::Popc { d: to.dst(d, Type::U32)?, p, negated },
                ("and", "pred") => BarrierKind::And { d: to.dst_pred(d)?, p, negated },
                ("or", "pred") => BarrierKind::Or { d: to.dst_pred(d)?, p, negated },
                _ => return Err(form("this reduction is not known")),
            };
            Ok(Barrier { id, count, kind, aligned })
        }
        _ => Err(form("this form is not known (clusters are not implemented)")),
    }
}

fn lower_fence(instruction: &Instruction) -> Result<Op, Refusal> {
    let modifiers = instruction.modifiers.as_slice();
    let wide = match modifiers {
        ["cta"] | ["sc" | "acq_rel" | "acquire" | "release", "cta"] => false,
        ["gl" | "sys"] | ["sc" | "acq_rel" | "acquire" | "release", "gpu" | "sys" | "cluster"] => {
            true
        }
        ["gpu" | "cluster"] => true,
        _ => return Err(Refusal::form(instruction, "this fence is not known")),
    };
    Ok(Op::Fence { wide })
}

/// Turns statement indices into places in the code.
pub fn retarget(op: &mut Op, place: impl Fn(u32) -> u32) {
    match op {
        Op::Branch { target } => *target = place(*target),
        Op::BranchIndexed { targets, .. } => {
            for target in targets.iter_mut() {
                *target = place(*target);
            }
        }
        _ => {}
    }
}
