//! The threads of a warp that are at the same place: how they run, part, meet, wait and call.

use super::control::BarrierKind;
use super::flow::control;
use super::program::Special;
use super::registers::{FULL, LANES, Lanes, Registers, W32, lanes};
use super::warp::State;
use super::{Exec, Fault, Grid, Members, Op, block};
use super::{compare, convert, data, float, integer, memory, tensor, warp_ops};

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
    pub(super) entered: bool,
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
pub(super) enum Flow {
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
        if !warp.strands.iter().any(Strand::can_run) {
            return Ok((Progress::Waiting, used));
        }
        if used >= fuel || warp.pause {
            // Who sleeps waits for others, maybe of its own warp.
            warp.rotate |= std::mem::take(&mut warp.pause);
            return Ok((Progress::Paused, used));
        }
        let Some(at) = pick(warp) else { return Ok((Progress::Waiting, used)) };
        let mut strand = warp.strands.swap_remove(at);
        let result = run_strand(&mut strand, warp, block, grid, fuel - used);
        let pc = strand.pc;
        put_back(strand, warp);
        result.map_err(|fault| (pc, fault))?;
    }
}

/// The strand to run: of those deepest in calls the one with the lowest program counter. Once in a while,
/// and after a sleep, it is the one that has waited longest, so that lanes of a warp can wait for each other.
/// How long the others had is counted over all of them: lanes that wait in a loop with a call or a branch in
/// it are never one strand for long.
fn pick(warp: &mut State) -> Option<usize> {
    let runnable = || warp.strands.iter().enumerate().filter(|(_, strand)| strand.can_run());
    let alone = runnable().nth(1).is_none();
    let due = std::mem::take(&mut warp.rotate) || warp.cycles - warp.turned >= TURN;
    if alone || due {
        warp.turned = warp.cycles;
        return runnable().min_by_key(|(_, strand)| strand.last).map(|(i, _)| i);
    }
    runnable()
        .min_by_key(|(_, strand)| (usize::MAX - strand.callers.len(), strand.pc))
        .map(|(i, _)| i)
}

/// Strands whose barrier is complete go on.
fn wake(warp: &mut State, block: &mut block::State) {
    for i in 0..warp.strands.len() {
        let Wait::Barrier { id, generation, kind } = warp.strands[i].wait else { continue };
        if block.barriers[id as usize].generation == generation {
            continue;
        }
        let (mask, frame) = (warp.strands[i].mask, warp.strands[i].frame);
        let mut regs = window(frame, &mut warp.slots, &mut warp.predicates);
        let all = |yes: bool| if yes { FULL } else { 0 };
        let mut votes = || block.take_votes(id, generation);
        match kind {
            BarrierKind::Sync | BarrierKind::Arrive => {}
            BarrierKind::Popc { d, .. } => regs.set32(d, mask, &[votes().count; LANES]),
            BarrierKind::And { d, .. } => regs.set_pred(d, mask, all(votes().all)),
            BarrierKind::Or { d, .. } => regs.set_pred(d, mask, all(votes().any)),
        }
        warp.strands[i].wait = Wait::Nothing;
    }
}

/// Back among the others; joined with one that is at the same place.
pub(super) fn put_back(strand: Strand, warp: &mut State) {
    if strand.mask == 0 {
        return;
    }
    match warp.strands.iter_mut().find(|other| other.is_with(&strand)) {
        Some(other) => {
            other.mask |= strand.mask;
            other.wait = Wait::Nothing;
            // One may be new in a function at whose first instruction the other waits.
            other.entered |= strand.entered;
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
                let members = warp_ops::members(op);
                let met = match op {
                    warp_ops::Op::Barrier { members } => {
                        meet(strand, regs.r32(*members), warp, grid, mask)
                    }
                    _ => 0,
                };
                mask = if met != 0 { met } else { arrive(strand, regs, warp, mask, members) };
                if mask == 0 {
                    break Ok(());
                }
                if let Err(fault) = warp_ops::exec(op, &mut exec!()) {
                    break Err(fault);
                }
            }
            Op::Tensor(op) => {
                if arrive(strand, regs, warp, mask, tensor::members(op)) == 0 {
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
    if !crowded {
        warp.turned = warp.cycles;
    }
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

/// The lanes of `mask` that a `.sync` instruction is executed by: all, if the lanes that it asks for are
/// here. If not, the strand waits for them; lanes that its guard holds back go on without it. Where lanes
/// have different member masks, those go on whose group is complete, and the others wait.
pub(super) fn arrive(
    strand: &mut Strand,
    regs: &Registers,
    warp: &mut State,
    mask: u32,
    members: Members,
) -> u32 {
    let ready = match members {
        Members::None => return mask,
        Members::All => {
            if mask & warp.live == warp.live {
                mask
            } else {
                0
            }
        }
        Members::Mask(slot) => {
            let masks = regs.r32(slot);
            let missing = warp.live & !mask;
            (0..LANES).fold(0, |ready, i| ready | u32::from(masks[i] & missing == 0) << i) & mask
        }
    };
    if ready == 0 {
        leave_behind(strand, warp, mask);
        strand.wait = Wait::Lanes;
        // put_back joins it with who waits here already, and they look again together.
    } else if ready != mask {
        wait_behind(strand, warp, mask & !ready);
    }
    ready
}

/// The lanes of `mask` that a bar.warp.sync lets go on because those that they ask for are here or wait at
/// others of its kind, which go on too: any bar.warp.sync is as good as any other. 0 where nobody elsewhere
/// is asked for. Lanes of other groups wait, here and there.
fn meet(strand: &mut Strand, masks: &W32, warp: &mut State, grid: &Grid, mask: u32) -> u32 {
    let waits = |strand: &Strand| {
        let at = &grid.program.code[strand.pc as usize].op;
        matches!(strand.wait, Wait::Lanes) && matches!(at, Op::Warp(warp_ops::Op::Barrier { .. }))
    };
    let waiting = warp.strands.iter().filter(|other| waits(other)).fold(0, |all, s| all | s.mask);
    let (mut ready, mut needed) = (0, 0);
    for lane in lanes(mask) {
        let asked = masks[lane] & warp.live;
        if asked & !(mask | waiting) == 0 {
            ready |= 1 << lane;
            needed |= asked;
        }
    }
    if waiting & needed == 0 {
        return 0;
    }
    for mut other in std::mem::take(&mut warp.strands) {
        let going = other.mask & needed;
        if going != 0 && waits(&other) {
            let on = Strand { pc: other.pc + 1, mask: going, wait: Wait::Nothing, ..other.clone() };
            warp.strands.push(on);
            other.mask &= !going;
        }
        if other.mask != 0 {
            warp.strands.push(other);
        }
    }
    wait_behind(strand, warp, mask & !ready);
    ready
}

/// Lanes of the strand that wait here for others while the rest of it goes on.
fn wait_behind(strand: &mut Strand, warp: &mut State, waiting: u32) {
    let other = Strand { mask: waiting, wait: Wait::Lanes, ..strand.clone() };
    strand.mask &= !waiting;
    put_back(other, warp);
}

/// Lanes of the strand outside `mask` go on at the next instruction, as a strand of their own.
pub(super) fn leave_behind(strand: &mut Strand, warp: &mut State, mask: u32) {
    let rest = strand.mask & !mask;
    if rest != 0 {
        let mut other = strand.clone();
        other.mask = rest;
        other.pc = strand.pc + 1;
        strand.mask = mask;
        put_back(other, warp);
    }
}
