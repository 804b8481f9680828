//! How control moves: branches, calls and returns, exits, barriers.

use super::block::Arrival;
use super::control::{self, BarrierKind, Target};
use super::program::{FUNCTION_WINDOW, MOST_LOCAL};
use super::registers::{Pred, Slot, lanes};
use super::strand::{Caller, Flow, Frame, Strand, Wait, arrive, leave_behind, put_back};
use super::warp::State;
use super::{Exec, Fault, Members, Op, builtin};
use crate::watch::Kind;

/// Frames of a thread's stack, at most: a recursion without end stops here.
const MAX_DEPTH: usize = 1024;

/// Executes a control instruction for the lanes of `exec.mask`, some or all of the strand's.
pub(super) fn control(
    op: &control::Op,
    strand: &mut Strand,
    exec: &mut Exec,
) -> Result<Flow, Fault> {
    let mask = exec.mask;
    match op {
        control::Op::Branch { target } => Ok(branch(strand, exec.warp, mask, *target)),
        control::Op::BranchIndexed { index, targets } => {
            branch_indexed(strand, exec, *index, targets)
        }
        control::Op::Call(call) => enter(call, strand, exec),
        control::Op::Ret if !strand.callers.is_empty() => {
            leave_behind(strand, exec.warp, mask);
            leave(strand, exec);
            Ok(Flow::Look)
        }
        control::Op::Ret | control::Op::Exit => {
            exit(strand, exec);
            Ok(if strand.mask == 0 { Flow::Look } else { Flow::Next })
        }
        control::Op::Trap => Err(Fault {
            kind: Kind::Trap,
            lane: mask.trailing_zeros() as usize,
            detail: "trap".to_owned(),
        }),
        control::Op::Barrier(barrier) => self::barrier(barrier, strand, exec),
        control::Op::Fence { wide } => {
            if exec.grid.watched {
                exec.block.watch.fence(exec.grid, exec.warp.index, *wide);
            }
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            Ok(Flow::Next)
        }
        control::Op::Nothing { pause } => {
            exec.warp.pause |= *pause;
            strand.pc += u32::from(*pause);
            Ok(if *pause { Flow::Look } else { Flow::Next })
        }
    }
}

fn branch(strand: &mut Strand, warp: &mut State, taken: u32, target: u32) -> Flow {
    let rest = strand.mask & !taken;
    if rest == 0 {
        return Flow::Goto(target);
    }
    // The lanes at the lower place go first.
    let next = strand.pc + 1;
    let mut other = strand.clone();
    let ours = if target < next {
        (other.pc, other.mask, strand.mask) = (next, rest, taken);
        target
    } else {
        (other.pc, other.mask, strand.mask) = (target, taken, rest);
        next
    };
    put_back(other, warp);
    Flow::Goto(ours)
}

fn branch_indexed(
    strand: &mut Strand,
    exec: &mut Exec,
    index: Slot,
    targets: &[u32],
) -> Result<Flow, Fault> {
    let mask = exec.mask;
    leave_behind(strand, exec.warp, mask);
    let index = *exec.regs.r32(index);
    if let Some(lane) = lanes(mask).find(|lane| index[*lane] as usize >= targets.len()) {
        let detail = format!("brx.idx: index {} in a table of {}", index[lane], targets.len());
        return Err(Fault { kind: Kind::IllegalInstruction, lane, detail });
    }
    let mut rest = mask;
    while rest != 0 {
        let target = targets[index[rest.trailing_zeros() as usize] as usize];
        let group = lanes(rest)
            .filter(|lane| targets[index[*lane] as usize] == target)
            .fold(0, |group, lane| group | 1 << lane);
        rest &= !group;
        let mut part = strand.clone();
        (part.pc, part.mask) = (target, group);
        if rest == 0 {
            *strand = part;
        } else {
            put_back(part, exec.warp);
        }
    }
    Ok(Flow::Look)
}

/// A call: the lanes that make it get a frame above the caller's.
fn enter(call: &control::Call, strand: &mut Strand, exec: &mut Exec) -> Result<Flow, Fault> {
    let mask = exec.mask;
    let fault =
        |lane: usize, detail: String| Fault { kind: Kind::IllegalInstruction, lane, detail };
    let program = exec.grid.program;
    let (number, callees) = match call.target {
        Target::Vprintf => {
            builtin::vprintf(call, exec)?;
            return Ok(Flow::Next);
        }
        Target::AssertFail => return Err(builtin::assert_fail(call, exec)),
        Target::Function(number) => (number, mask),
        Target::Pointer(slot) => {
            // Lanes that call another function than the first lane does come back to this instruction.
            let pointers = *exec.regs.r64(slot);
            let first = mask.trailing_zeros() as usize;
            let same = lanes(mask)
                .filter(|lane| pointers[*lane] == pointers[first])
                .fold(0, |same, lane| same | 1 << lane);
            let number = pointers[first].wrapping_sub(FUNCTION_WINDOW);
            let number = u32::try_from(number).map_err(|_| {
                fault(first, format!("call of {:#x}: no function", pointers[first]))
            })?;
            (number, same)
        }
    };
    let lane = callees.trailing_zeros() as usize;
    let index = program.pointers.get(number as usize).copied().flatten();
    let index = index.ok_or_else(|| fault(lane, format!("call of function {number}: unknown")))?;
    let callee = &program.functions[index as usize];
    if callee.params.len() != call.params.len() || callee.returns.len() != call.returns.len() {
        return Err(fault(
            lane,
            format!("call of {} with other parameters than it has", callee.name),
        ));
    }
    if strand.callers.len() >= MAX_DEPTH {
        return Err(fault(lane, format!("call of {}: {MAX_DEPTH} calls deep", callee.name)));
    }
    leave_behind(strand, exec.warp, mask);
    if callees != mask {
        let mut later = strand.clone();
        later.mask = mask & !callees;
        strand.mask = callees;
        put_back(later, exec.warp);
    }
    let caller = &program.functions[strand.frame.function as usize];
    let frame = Frame {
        function: index,
        slots: strand.frame.slots + caller.slots,
        predicates: strand.frame.predicates + caller.predicates,
        local: strand.frame.local + caller.local_bytes.next_multiple_of(16),
    };
    let local_bytes = frame.local + callee.local_bytes;
    if local_bytes > MOST_LOCAL {
        let why = format!("{local_bytes} bytes of local memory, {MOST_LOCAL} at most");
        return Err(fault(lane, format!("call of {}: {why}", callee.name)));
    }
    exec.warp.local.grow(local_bytes);
    for lane in lanes(callees) {
        for ((from, bytes), (to, _)) in call.params.iter().zip(&callee.params) {
            exec.warp.local.copy(lane, strand.frame.local + from, frame.local + to, *bytes);
        }
    }
    strand.callers.push(Caller { frame: strand.frame, call: strand.pc });
    strand.frame = frame;
    strand.pc = callee.entry;
    strand.entered = true;
    Ok(Flow::Look)
}

/// A return: results go to the caller's variables.
fn leave(strand: &mut Strand, exec: &mut Exec) {
    let Some(caller) = strand.callers.pop() else { return };
    let program = exec.grid.program;
    let callee = &program.functions[strand.frame.function as usize];
    if let Op::Control(control::Op::Call(call)) = &program.code[caller.call as usize].op {
        for lane in lanes(strand.mask) {
            for ((to, bytes), (from, _)) in call.returns.iter().zip(&callee.returns) {
                let (from, to) = (strand.frame.local + from, caller.frame.local + to);
                exec.warp.local.copy(lane, from, to, *bytes);
            }
        }
    }
    strand.frame = caller.frame;
    strand.pc = caller.call + 1;
}

fn exit(strand: &mut Strand, exec: &mut Exec) {
    strand.mask &= !exec.mask;
    exec.warp.live &= !exec.mask;
    if exec.warp.live == 0 {
        exec.block.watch.exit(exec.grid, exec.warp.index);
    }
    exec.block.exited(exec.mask.count_ones());
    // Who waits for lanes of this warp may have been waiting for these.
    for other in &mut exec.warp.strands {
        if matches!(other.wait, Wait::Lanes) {
            other.wait = Wait::Nothing;
        }
    }
}

fn barrier(op: &control::Barrier, strand: &mut Strand, exec: &mut Exec) -> Result<Flow, Fault> {
    let mask = exec.mask;
    if op.aligned && arrive(strand, &exec.regs, exec.warp, mask, Members::All) == 0 {
        return Ok(Flow::Look);
    }
    leave_behind(strand, exec.warp, mask);
    let first = mask.trailing_zeros() as usize;
    let id = exec.regs.r32(op.id)[first];
    let count = op.count.map(|count| exec.regs.r32(count)[first]);
    let fault = |detail: String| Fault { kind: Kind::IllegalInstruction, lane: first, detail };
    let threads = exec.grid.block_dim.iter().product::<u32>();
    if id >= 16 {
        return Err(fault(format!("barrier {id}: there are 16")));
    }
    if let Some(count) = count
        && (count == 0 || count % 32 != 0 || count > threads.next_multiple_of(32))
    {
        return Err(fault(format!("barrier {id} of {count} threads in a block of {threads}")));
    }
    let gone = exec.warp.born & !exec.warp.live;
    if op.aligned && gone != 0 && exec.grid.watched {
        let [x, y, z] = exec.warp.thread(gone.trailing_zeros() as usize, exec.grid.block_dim);
        let detail = format!(
            "barrier {id} is executed by {} of a warp's {} threads: thread ({x},{y},{z}) and others of it have exited",
            mask.count_ones(),
            exec.warp.born.count_ones(),
        );
        exec.find(Kind::BarrierNotReached, first, detail, None);
    }
    let vote = |p: Pred, negated: bool| {
        let value = exec.regs.pred(p);
        mask & if negated { !value } else { value }
    };
    let voters = mask.count_ones();
    let votes = match op.kind {
        BarrierKind::Sync | BarrierKind::Arrive => None,
        BarrierKind::Popc { p, negated, .. }
        | BarrierKind::And { p, negated, .. }
        | BarrierKind::Or { p, negated, .. } => Some((voters, vote(p, negated).count_ones())),
    };
    // With a count, threads are counted a warp at a time, the last one of the block too.
    let whole = mask == exec.warp.live;
    let threads = if count.is_some() && whole { 32 } else { mask.count_ones() };
    let generation = exec.block.barriers[id as usize].generation;
    let arrival = Arrival { warp: exec.warp.index, threads, count, votes };
    exec.block.arrive(id as usize, arrival);
    strand.pc += 1;
    if !matches!(op.kind, BarrierKind::Arrive) {
        strand.wait = Wait::Barrier { id: id as u8, generation, kind: op.kind };
    }
    Ok(Flow::Look)
}
