//! Exchange between lanes: shfl, vote, match, redux, activemask, elect, bar.warp.sync.
//!
//! PTX manual, chapters "Data Movement and Conversion Instructions: shfl.sync" and "Parallel
//! Synchronization and Communication Instructions". Lanes that arrive together may form several groups,
//! each with a member mask of its own, as cooperative groups' tiles do: what a lane gets, it gets from its
//! own group.

use super::lower::{Lowering, Refusal};
use super::registers::{LANES, Pred, Slot, W32, W64, lanes};
use super::{Exec, Fault, Members};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::watch::Kind;

/// What a lane gets from a lane that is not of its group. The manual leaves it undefined; this is a NaN in
/// f32 and in f16, so that a result that uses it is seen to be wrong.
pub const UNDEFINED: u32 = 0x7FFF_DEAD;

#[derive(Debug, Clone)]
pub enum Op {
    Shuffle { how: Shuffle, d: Slot, p: Option<Pred>, a: Slot, b: Slot, c: Slot, members: Slot },
    Vote { how: Vote, p: Pred, negated: bool, members: Slot },
    MatchAny { wide: bool, d: Slot, a: Slot, members: Slot },
    MatchAll { wide: bool, d: Slot, p: Option<Pred>, a: Slot, members: Slot },
    Reduce { how: Reduce, d: Slot, a: Slot, members: Slot },
    ActiveMask { d: Slot },
    Elect { d: Slot, p: Pred, members: Slot },
    Barrier { members: Slot },
}

/// The modes of shfl.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// The modes of vote, with where their result goes.
#[derive(Debug, Clone, Copy)]
pub enum Vote {
    All(Pred),
    Any(Pred),
    Uniform(Pred),
    Ballot(Slot),
}

/// The operations of redux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    Add,
    MinSigned,
    MaxSigned,
    MinUnsigned,
    MaxUnsigned,
    And,
    Or,
    Xor,
}

pub fn lower(instruction: &Instruction, to: &mut Lowering) -> Result<Option<Op>, Refusal> {
    let modifiers = instruction.modifiers.as_slice();
    let refuse = |why| Err(Refusal::form(instruction, why));
    let op = match instruction.name {
        "shfl" | "vote" | "match" | "redux" | "elect" if !modifiers.contains(&"sync") => {
            return refuse("the form without .sync does not exist on sm_70 and later");
        }
        "shfl" => {
            let how = match modifiers {
                ["sync", "up", "b32"] => Shuffle::Up,
                ["sync", "down", "b32"] => Shuffle::Down,
                ["sync", "bfly", "b32"] => Shuffle::Butterfly,
                ["sync", "idx", "b32"] => Shuffle::Index,
                _ => return refuse("shfl.sync is up, down, bfly or idx, and .b32"),
            };
            let [d, a, b, c, members] = operands(instruction)?;
            let (d, p) = with_predicate(to, d)?;
            Op::Shuffle {
                how,
                d,
                p,
                a: to.src(a, Type::B32)?,
                b: to.src(b, Type::U32)?,
                c: to.src(c, Type::U32)?,
                members: to.src(members, Type::B32)?,
            }
        }
        "vote" => {
            let [d, p, members] = operands(instruction)?;
            let how = match modifiers {
                ["sync", "all", "pred"] => Vote::All(to.dst_pred(d)?),
                ["sync", "any", "pred"] => Vote::Any(to.dst_pred(d)?),
                ["sync", "uni", "pred"] => Vote::Uniform(to.dst_pred(d)?),
                ["sync", "ballot", "b32"] => Vote::Ballot(to.dst(d, Type::B32)?),
                _ => return refuse("vote.sync is all, any or uni of .pred, or ballot.b32"),
            };
            let (p, negated) = to.src_pred(p)?;
            Op::Vote { how, p, negated, members: to.src(members, Type::B32)? }
        }
        "match" => {
            let (all, ty) = match modifiers {
                ["any", "sync", "b32"] => (false, Type::B32),
                ["any", "sync", "b64"] => (false, Type::B64),
                ["all", "sync", "b32"] => (true, Type::B32),
                ["all", "sync", "b64"] => (true, Type::B64),
                _ => return refuse("match is any.sync or all.sync of .b32 or .b64"),
            };
            let wide = ty == Type::B64;
            let [d, a, members] = operands(instruction)?;
            let a = to.src(a, ty)?;
            let members = to.src(members, Type::B32)?;
            if all {
                let (d, p) = with_predicate(to, d)?;
                Op::MatchAll { wide, d, p, a, members }
            } else {
                Op::MatchAny { wide, d: to.dst(d, Type::B32)?, a, members }
            }
        }
        "redux" => {
            let how = match modifiers {
                ["sync", "add", "u32" | "s32"] => Reduce::Add,
                ["sync", "min", "s32"] => Reduce::MinSigned,
                ["sync", "max", "s32"] => Reduce::MaxSigned,
                ["sync", "min", "u32"] => Reduce::MinUnsigned,
                ["sync", "max", "u32"] => Reduce::MaxUnsigned,
                ["sync", "and", "b32"] => Reduce::And,
                ["sync", "or", "b32"] => Reduce::Or,
                ["sync", "xor", "b32"] => Reduce::Xor,
                _ => {
                    return refuse(
                        "redux.sync is add, min or max of integers, or and, or, xor of .b32",
                    );
                }
            };
            let [d, a, members] = operands(instruction)?;
            Op::Reduce {
                how,
                d: to.dst(d, Type::B32)?,
                a: to.src(a, Type::B32)?,
                members: to.src(members, Type::B32)?,
            }
        }
        "activemask" => {
            let ["b32"] = modifiers else { return refuse("activemask is .b32") };
            let [d] = operands(instruction)?;
            Op::ActiveMask { d: to.dst(d, Type::B32)? }
        }
        "elect" => {
            let ["sync"] = modifiers else { return refuse("elect is .sync") };
            let [d, members] = operands(instruction)?;
            let Operand::Pair(d, p) = d else { return refuse("elect.sync writes d|p") };
            Op::Elect {
                d: to.dst(d, Type::B32)?,
                p: to.dst_pred(p)?,
                members: to.src(members, Type::B32)?,
            }
        }
        "bar" if modifiers == ["warp", "sync"] => {
            let [members] = operands(instruction)?;
            Op::Barrier { members: to.src(members, Type::B32)? }
        }
        _ => return Ok(None),
    };
    Ok(Some(op))
}

/// The operands, if there are this many.
fn operands<'i, 'a, const N: usize>(
    instruction: &'i Instruction<'a>,
) -> Result<&'i [Operand<'a>; N], Refusal> {
    instruction
        .operands
        .as_slice()
        .try_into()
        .map_err(|_| Refusal::form(instruction, &format!("{N} operands are needed")))
}

/// `d` or `d|p`.
fn with_predicate(to: &mut Lowering, operand: &Operand) -> Result<(Slot, Option<Pred>), Refusal> {
    match operand {
        Operand::Pair(d, p) => Ok((to.dst(d, Type::B32)?, Some(to.dst_pred(p)?))),
        d => Ok((to.dst(d, Type::B32)?, None)),
    }
}

/// The lanes that must arrive together.
pub fn members(op: &Op) -> Members {
    match *op {
        Op::Shuffle { members, .. }
        | Op::Vote { members, .. }
        | Op::MatchAny { members, .. }
        | Op::MatchAll { members, .. }
        | Op::Reduce { members, .. }
        | Op::Elect { members, .. }
        | Op::Barrier { members } => Members::Mask(members),
        Op::ActiveMask { .. } => Members::None,
    }
}

/// # Errors
/// A member mask that lacks a lane that executes, or that two lanes of a group disagree about.
pub fn exec(op: &Op, exec: &mut Exec) -> Result<(), Fault> {
    let mask = exec.mask;
    match *op {
        Op::Shuffle { how, d, p, a, b, c, members } => {
            let groups = groups(exec, members)?;
            let (b, c) = (exec.regs.r32(b), exec.regs.r32(c));
            let (out, inside) = shuffle(how, exec.regs.r32(a), b, c, &groups);
            exec.regs.set32(d, mask, &out);
            if let Some(p) = p {
                exec.regs.set_pred(p, mask, inside);
            }
        }
        Op::Vote { how, p, negated, members } => {
            let groups = groups(exec, members)?;
            let ayes = exec.regs.pred(p) ^ if negated { u32::MAX } else { 0 };
            let ballots = groups.map(|group| group & ayes);
            let result = |holds: fn(u32, u32) -> bool| {
                (0..LANES).fold(0, |out, i| out | u32::from(holds(ballots[i], groups[i])) << i)
            };
            match how {
                Vote::All(d) => {
                    let all = result(|ballot, group| ballot == group);
                    exec.regs.set_pred(d, mask, all);
                }
                Vote::Any(d) => {
                    let any = result(|ballot, _| ballot != 0);
                    exec.regs.set_pred(d, mask, any);
                }
                Vote::Uniform(d) => {
                    let uniform = result(|ballot, group| ballot == 0 || ballot == group);
                    exec.regs.set_pred(d, mask, uniform);
                }
                Vote::Ballot(d) => exec.regs.set32(d, mask, &ballots),
            }
        }
        Op::MatchAny { wide, d, a, members } => {
            let groups = groups(exec, members)?;
            let values = values(exec, a, wide);
            let mut out = [0; LANES];
            for i in lanes(mask) {
                out[i] = equals(&values, values[i], groups[i]);
            }
            exec.regs.set32(d, mask, &out);
        }
        Op::MatchAll { wide, d, p, a, members } => {
            let groups = groups(exec, members)?;
            let values = values(exec, a, wide);
            let (mut out, mut same) = ([0; LANES], 0);
            for i in lanes(mask) {
                if equals(&values, values[i], groups[i]) == groups[i] {
                    out[i] = groups[i];
                    same |= 1 << i;
                }
            }
            exec.regs.set32(d, mask, &out);
            if let Some(p) = p {
                exec.regs.set_pred(p, mask, same);
            }
        }
        Op::Reduce { how, d, a, members } => {
            let groups = groups(exec, members)?;
            let a = exec.regs.r32(a);
            let mut out = [0; LANES];
            for i in lanes(mask) {
                let first = groups[i].trailing_zeros() as usize;
                out[i] = if first < i { out[first] } else { reduce(how, a, groups[i]) };
            }
            exec.regs.set32(d, mask, &out);
        }
        Op::ActiveMask { d } => exec.regs.set32(d, mask, &[mask; LANES]),
        Op::Elect { d, p, members } => {
            let groups = groups(exec, members)?;
            let leaders = groups.map(u32::trailing_zeros);
            let elected = lanes(mask).filter(|&i| leaders[i] as usize == i);
            let elected = elected.fold(0, |out, i| out | 1 << i);
            exec.regs.set32(d, mask, &leaders);
            exec.regs.set_pred(p, mask, elected);
        }
        Op::Barrier { members } => {
            let groups = groups(exec, members)?;
            let mut left = mask;
            while left != 0 {
                let group = groups[left.trailing_zeros() as usize];
                exec.block.watch.warp_sync(exec.warp.index, group);
                left &= !group;
            }
        }
    }
    Ok(())
}

/// For every lane that executes, the lanes of its member mask that do (those missing have exited: the
/// scheduler waits for the others); 0 for the rest.
fn groups(exec: &Exec, members: Slot) -> Result<W32, Fault> {
    let masks = exec.regs.r32(members);
    let fault =
        |lane: usize, detail: String| Err(Fault { kind: Kind::WrongMemberMask, lane, detail });
    let mut groups = [0; LANES];
    for lane in lanes(exec.mask) {
        let members = masks[lane];
        if members >> lane & 1 == 0 {
            return fault(lane, format!("lane {lane} is not in its member mask {members:#010x}"));
        }
        groups[lane] = members & exec.mask;
    }
    for lane in lanes(exec.mask) {
        let mine = masks[lane];
        if let Some(other) = lanes(groups[lane]).find(|&other| masks[other] != mine) {
            let theirs = masks[other];
            let detail = format!(
                "member mask {mine:#010x} in lane {lane}, but {theirs:#010x} in its lane {other}"
            );
            return fault(lane, detail);
        }
    }
    Ok(groups)
}

/// The lanes' values of `a`, and the lanes whose source lane was inside their segment.
fn shuffle(how: Shuffle, a: &W32, b: &W32, c: &W32, groups: &W32) -> (W32, u32) {
    let (mut out, mut inside) = ([0; LANES], 0);
    for lane in 0..LANES as u32 {
        let i = lane as usize;
        let (offset, clamp, segment) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
        let first = lane & segment;
        let last = first | (clamp & !segment);
        // In `up`, c's clamp is 0 and `last` is the lowest lane of the segment.
        let (from, within) = match how {
            Shuffle::Up => (lane.wrapping_sub(offset), lane >= offset + last),
            Shuffle::Down => (lane + offset, lane + offset <= last),
            Shuffle::Butterfly => (lane ^ offset, lane ^ offset <= last),
            Shuffle::Index => {
                let from = first | (offset & !segment);
                (from, from <= last)
            }
        };
        let from = if within { from } else { lane };
        inside |= u32::from(within) << i;
        out[i] = if groups[i] >> from & 1 != 0 { a[from as usize] } else { UNDEFINED };
    }
    (out, inside)
}

fn reduce(how: Reduce, a: &W32, group: u32) -> u32 {
    let values = lanes(group).map(|lane| a[lane]);
    let signed = |bits: u32| bits as i32;
    let out = match how {
        Reduce::Add => values.reduce(u32::wrapping_add),
        Reduce::MinSigned => values.min_by_key(|&bits| signed(bits)),
        Reduce::MaxSigned => values.max_by_key(|&bits| signed(bits)),
        Reduce::MinUnsigned => values.min(),
        Reduce::MaxUnsigned => values.max(),
        Reduce::And => values.reduce(|a, b| a & b),
        Reduce::Or => values.reduce(|a, b| a | b),
        Reduce::Xor => values.reduce(|a, b| a ^ b),
    };
    out.unwrap_or_default()
}

/// The values to match, 32-bit ones widened.
fn values(exec: &Exec, a: Slot, wide: bool) -> W64 {
    if wide { *exec.regs.r64(a) } else { exec.regs.r32(a).map(u64::from) }
}

/// The lanes of the group that hold `value`.
fn equals(values: &W64, value: u64, group: u32) -> u32 {
    lanes(group).filter(|&lane| values[lane] == value).fold(0, |out, lane| out | 1 << lane)
}
