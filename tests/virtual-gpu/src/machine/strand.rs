//! The threads of a warp that are at the same place: how they run, part, meet, wait and call.

use super::control::{self, BarrierKind, Target};
use super::program::{FUNCTION_WINDOW, Special};
use super::registers::{FULL, LANES, Lanes, Pred, Registers, Slot, lanes};
use super::warp::State;
use super::{Exec, Fault, Grid, Members, Op, block, builtin};
use super::{compare, convert, data, float, integer, memory, tensor, warp_ops};
use crate::watch::Kind;

/// Frames of a thread's stack, at most: a recursion without end stops here.
const MAX_DEPTH: usize = 1024;
/// Instructions that a strand may run while others of its warp could.
const TURN: u64 = 2048;

/// Lanes that run together.
#[derive(Debug, Clone)]
pub struct Strand {
    pub pc: u32,
    pub mask: u32,
    pub frame: Frame,
    /// Its callers' frames, outermost first.
    pub callers: Vec<Caller>,
    pub wait: Wait,
    /// It has just come into its function: immediates and special registers are not written yet.
    entered: bool,
    /// The warp's clock when it last ran.
    last: u64,
}

/// Where a function's registers and local memory begin in the warp's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub function: u32,
    pub slots: u32,
    pub predicates: u32,
    pub local: u32,
}

/// Where to go on when a function returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub frame: Frame,
    /// The call instruction.
    pub call: u32,
}

/// What a strand waits for.
#[derive(Debug, Clone, Copy)]
pub enum Wait {
    Nothing,
    /// For a barrier to be completed: until its generation is another one.
    Barrier {
        id: u8,
        generation: u32,
        kind: BarrierKind,
    },
    /// For other lanes of its warp to arrive at the same instruction.
    Lanes,
}

/// How far a warp came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// All its threads have exited.
    Done,
    /// None of its strands can go on by itself.
    Waiting,
    /// It has used up its turn.
    Paused,
}

/// What comes after a control instruction.
enum Flow {
    Next,
    Goto(u32),
    /// The strand's own state says; the scheduler must look.
    Look,
}

impl Strand {
    pub fn new(mask: u32) -> Strand {
        let frame = Frame { function: 0, slots: 0, predicates: 0, local: 0 };
        Strand {
            pc: 0,
            mask,
            frame,
            callers: Vec::new(),
            wait: Wait::Nothing,
            entered: true,
            last: 0,
        }
    }

    fn can_run(&self) -> bool {
        matches!(self.wait, Wait::Nothing)
    }

    fn is_with(&self, other: &Strand) -> bool {
        self.pc == other.pc
            && self.frame == other.frame
            && self.callers == other.callers
            && !matches!(self.wait, Wait::Barrier { .. })
            && !matches!(other.wait, Wait::Barrier { .. })
    }
}

/// Runs a warp until it is done, waits, or has executed `fuel` instructions. Gives how many it executed.
/// A fault comes with the instruction that it happened at.
pub fn run(
    warp: &mut State,
    block: &mut block::State,
    grid: &Grid,
    fuel: u64,
) -> Result<(Progress, u64), (u32, Fault)> {
    let start = warp.cycles;
    loop {
        wake(warp, block);
        let used = warp.cycles - start;
        if warp.strands.is_empty() {
            return Ok((Progress::Done, used));
        }
        let Some(at) = pick(warp) else { return Ok((Progress::Waiting, used)) };
        if used >= fuel || warp.pause {
            warp.pause = false;
            return Ok((Progress::Paused, used));
        }
        let mut strand = warp.strands.swap_remove(at);
        let result = run_strand(&mut strand, warp, block, grid, fuel - used);
        let pc = strand.pc;
        put_back(strand, warp);
        result.map_err(|fault| (pc, fault))?;
    }
}

/// The strand to run: of those deepest in calls the one with the lowest program counter, or after a long
/// turn the one that has waited longest, so that lanes of a warp can wait for each other.
fn pick(warp: &mut State) -> Option<usize> {
    let runnable = || warp.strands.iter().enumerate().filter(|(_, strand)| strand.can_run());
    if warp.rotate {
        warp.rotate = false;
        return runnable().min_by_key(|(_, strand)| strand.last).map(|(i, _)| i);
    }
    runnable()
        .min_by_key(|(_, strand)| (usize::MAX - strand.callers.len(), strand.pc))
        .map(|(i, _)| i)
}

/// Strands whose barrier is complete go on.
fn wake(warp: &mut State, block: &block::State) {
    for i in 0..warp.strands.len() {
        let Wait::Barrier { id, generation, kind } = warp.strands[i].wait else { continue };
        let barrier = &block.barriers[id as usize];
        if barrier.generation == generation {
            continue;
        }
        let (mask, frame) = (warp.strands[i].mask, warp.strands[i].frame);
        let mut regs = window(frame, &mut warp.slots, &mut warp.predicates);
        match kind {
            BarrierKind::Sync | BarrierKind::Arrive => {}
            BarrierKind::Popc { d, .. } => regs.set32(d, mask, &[barrier.result.count; LANES]),
            BarrierKind::And { d, .. } => {
                regs.set_pred(d, mask, if barrier.result.all { FULL } else { 0 });
            }
            BarrierKind::Or { d, .. } => {
                regs.set_pred(d, mask, if barrier.result.any { FULL } else { 0 });
            }
        }
        warp.strands[i].wait = Wait::Nothing;
    }
}

/// Back among the others; joined with one that is at the same place.
fn put_back(strand: Strand, warp: &mut State) {
    if strand.mask == 0 {
        return;
    }
    match warp.strands.iter_mut().find(|other| other.is_with(&strand)) {
        Some(other) => {
            other.mask |= strand.mask;
            other.wait = Wait::Nothing;
            other.last = other.last.max(strand.last);
        }
        None => warp.strands.push(strand),
    }
}

fn window<'w>(frame: Frame, slots: &'w mut [Lanes], predicates: &'w mut [u32]) -> Registers<'w> {
    Registers {
        slots: &mut slots[frame.slots as usize..],
        predicates: &mut predicates[frame.predicates as usize..],
    }
}

fn run_strand(
    strand: &mut Strand,
    warp: &mut State,
    block: &mut block::State,
    grid: &Grid,
    fuel: u64,
) -> Result<(), Fault> {
    let mut slots = std::mem::take(&mut warp.slots);
    let mut predicates = std::mem::take(&mut warp.predicates);
    let mut left = fuel;
    let result = loop {
        let function = &grid.program.functions[strand.frame.function as usize];
        grow(&mut slots, strand.frame.slots + function.slots, Lanes([0; LANES]));
        grow(&mut predicates, strand.frame.predicates + function.predicates, 0);
        let mut regs = window(strand.frame, &mut slots, &mut predicates);
        if std::mem::take(&mut strand.entered) {
            fill(strand, &mut regs, warp, block, grid);
        }
        if let Err(fault) = run_frame(strand, &mut regs, warp, block, grid, &mut left) {
            break Err(fault);
        }
        // A strand on its own that called or returned goes on in its new frame.
        let others = warp.strands.iter().any(Strand::can_run);
        if left == 0 || others || strand.mask == 0 || !strand.can_run() || warp.pause {
            break Ok(());
        }
    };
    strand.last = warp.cycles;
    warp.slots = slots;
    warp.predicates = predicates;
    result
}

fn grow<T: Clone>(stack: &mut Vec<T>, top: u32, value: T) {
    if stack.len() < top as usize {
        stack.resize(top as usize, value);
    }
}

/// Writes the immediates and special registers of the strand's function.
fn fill(strand: &Strand, regs: &mut Registers, warp: &State, block: &block::State, grid: &Grid) {
    let function = &grid.program.functions[strand.frame.function as usize];
    for constant in &function.constants {
        if constant.wide {
            regs.set64(constant.slot, strand.mask, &[constant.bits; LANES]);
        } else {
            regs.set32(constant.slot, strand.mask, &[constant.bits as u32; LANES]);
        }
    }
    for (slot, special) in &function.specials {
        let value = special_value(*special, warp, block, grid);
        regs.set32(*slot, strand.mask, &value);
    }
}

fn special_value(
    special: Special,
    warp: &State,
    block: &block::State,
    grid: &Grid,
) -> [u32; LANES] {
    let axis = |axis: u8| usize::from(axis);
    let lane = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|i| f(i as u32));
    match special {
        Special::Tid(a) => std::array::from_fn(|i| warp.thread(i, grid.block_dim)[axis(a)]),
        Special::NTid(a) => [grid.block_dim[axis(a)]; LANES],
        Special::CtaId(a) => [block.index[axis(a)]; LANES],
        Special::NCtaId(a) => [grid.grid_dim[axis(a)]; LANES],
        Special::LaneId => lane(&|i| i),
        Special::WarpId => [warp.index; LANES],
        Special::NWarpId => [grid.block_dim.iter().product::<u32>().div_ceil(32); LANES],
        Special::SmId => [(block.linear % u64::from(grid.multiprocessors)) as u32; LANES],
        Special::NSmId => [grid.multiprocessors; LANES],
        Special::GridId => [grid.launch as u32; LANES],
        Special::LaneMaskEq => lane(&|i| 1 << i),
        Special::LaneMaskLe => lane(&|i| u32::MAX >> (31 - i)),
        Special::LaneMaskLt => lane(&|i| (1 << i) - 1),
        Special::LaneMaskGe => lane(&|i| u32::MAX << i),
        Special::LaneMaskGt => lane(&|i| u32::MAX << i << 1),
        Special::TotalSmemSize => [grid.shared_bytes; LANES],
        Special::DynamicSmemSize => [grid.dynamic_shared_bytes; LANES],
        Special::Zero => [0; LANES],
        Special::One => [1; LANES],
    }
}

/// Runs within one frame, until a call, a return, a wait, another strand's turn, or the end of the fuel.
fn run_frame(
    strand: &mut Strand,
    regs: &mut Registers,
    warp: &mut State,
    block: &mut block::State,
    grid: &Grid,
    left: &mut u64,
) -> Result<(), Fault> {
    let code = grid.program.code.as_slice();
    warp.local_base = strand.frame.local;
    // Another strand at a lower place than ours: that is its turn.
    let mut limit = limit(strand, warp);
    let crowded = warp.strands.iter().any(Strand::can_run);
    let turn = if crowded { TURN.min(*left) } else { *left };
    let mut turn_left = turn;
    let result = loop {
        if turn_left == 0 {
            warp.rotate = crowded;
            break Ok(());
        }
        turn_left -= 1;
        warp.cycles += 1;
        let pc = strand.pc;
        let inst = &code[pc as usize];
        let mut mask = strand.mask;
        if let Some(guard) = inst.guard {
            let value = regs.pred(guard.pred);
            mask &= if guard.negated { !value } else { value };
        }
        macro_rules! exec {
            () => {
                Exec {
                    regs: Registers { slots: &mut *regs.slots, predicates: &mut *regs.predicates },
                    mask,
                    warp: &mut *warp,
                    block: &mut *block,
                    grid,
                    pc,
                }
            };
        }
        match &inst.op {
            Op::Integer(op) => integer::exec(op, regs, mask),
            Op::Float(op) => float::exec(op, regs, mask),
            Op::Convert(op) => convert::exec(op, regs, mask),
            Op::Compare(op) => compare::exec(op, regs, mask),
            Op::Data(op) => data::exec(op, &mut exec!()),
            _ if mask == 0 => {}
            Op::Memory(op) => {
                if let Err(fault) = memory::exec(op, &mut exec!()) {
                    break Err(fault);
                }
            }
            Op::Warp(op) => {
                if !arrive(strand, regs, warp, mask, warp_ops::members(op)) {
                    break Ok(());
                }
                if let Err(fault) = warp_ops::exec(op, &mut exec!()) {
                    break Err(fault);
                }
            }
            Op::Tensor(op) => {
                if !arrive(strand, regs, warp, mask, tensor::members(op)) {
                    break Ok(());
                }
                if let Err(fault) = tensor::exec(op, &mut exec!()) {
                    break Err(fault);
                }
            }
            Op::Control(op) => match control(op, strand, &mut exec!()) {
                Ok(Flow::Next) => {}
                Ok(Flow::Goto(target)) => {
                    strand.pc = target;
                    limit = self::limit(strand, warp);
                    if target >= limit {
                        break Ok(());
                    }
                    continue;
                }
                Ok(Flow::Look) => break Ok(()),
                Err(fault) => break Err(fault),
            },
        }
        strand.pc = pc + 1;
        if strand.pc >= limit {
            break Ok(());
        }
    };
    *left -= turn - turn_left;
    result
}

/// The lowest program counter of the other strands that could run as deep in calls as this one.
fn limit(strand: &Strand, warp: &State) -> u32 {
    if warp.strands.is_empty() {
        return u32::MAX;
    }
    let depth = strand.callers.len();
    let peers = warp.strands.iter().filter(|other| other.can_run() && other.callers.len() >= depth);
    peers
        .map(|other| if other.callers.len() > depth { 0 } else { other.pc })
        .min()
        .unwrap_or(u32::MAX)
}

/// Whether the lanes that a `.sync` instruction asks for are here. If not, the strand waits for them;
/// lanes that its guard holds back go on without it.
fn arrive(
    strand: &mut Strand,
    regs: &Registers,
    warp: &mut State,
    mask: u32,
    members: Members,
) -> bool {
    let needed = match members {
        Members::None => return true,
        Members::All => warp.live,
        Members::Mask(slot) => regs.r32(slot)[mask.trailing_zeros() as usize] & warp.live,
    };
    if mask & needed == needed {
        return true;
    }
    leave_behind(strand, warp, mask);
    strand.wait = Wait::Lanes;
    // put_back joins it with who waits here already, and they look again together.
    false
}

/// Lanes of the strand outside `mask` go on at the next instruction, as a strand of their own.
fn leave_behind(strand: &mut Strand, warp: &mut State, mask: u32) {
    let rest = strand.mask & !mask;
    if rest != 0 {
        let mut other = strand.clone();
        other.mask = rest;
        other.pc = strand.pc + 1;
        strand.mask = mask;
        put_back(other, warp);
    }
}

fn control(op: &control::Op, strand: &mut Strand, exec: &mut Exec) -> Result<Flow, Fault> {
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
                let index = exec.warp.index;
                if *wide {
                    exec.block.watch.fence(index, mask);
                }
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
    exec.warp.local.grow(frame.local + callee.local_bytes);
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
    if op.aligned && !arrive(strand, &exec.regs, exec.warp, mask, Members::All) {
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
    let votes = match op.kind {
        BarrierKind::Sync | BarrierKind::Arrive => 0,
        BarrierKind::Popc { p, negated, .. }
        | BarrierKind::And { p, negated, .. }
        | BarrierKind::Or { p, negated, .. } => vote(p, negated),
    };
    // With a count, threads are counted a warp at a time, the last one of the block too.
    let whole = mask == exec.warp.live;
    let arriving = if count.is_some() && whole { 32 } else { mask.count_ones() };
    let generation = exec.block.barriers[id as usize].generation;
    let index = exec.warp.index;
    exec.block.arrive(id as usize, index, arriving, count, mask.count_ones(), votes.count_ones());
    strand.pc += 1;
    if !matches!(op.kind, BarrierKind::Arrive) {
        strand.wait = Wait::Barrier { id: id as u8, generation, kind: op.kind };
    }
    Ok(Flow::Look)
}
