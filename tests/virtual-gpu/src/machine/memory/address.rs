//! Where the lanes of an access point: state spaces, alignment, bounds, what was written before.

use super::super::lower::Base;
use super::super::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use super::super::registers::{FULL, LANES, W64, lanes};
use super::super::{Exec, Fault};
use crate::memory::{MemoryError, Region};
use crate::watch::Kind;
use crate::watch::race::{Access, How};

/// The state spaces as they are reached: constants are global memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Global,
    Shared,
    Local,
    Param,
    /// Any of them, as the address says.
    Generic,
}

/// An address operand.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub base: Option<Base>,
    pub offset: u64,
    pub place: Place,
    /// Relative to the running frame of local memory.
    pub framed: bool,
}

/// Some lanes of an access, all in one state space.
pub struct Part {
    pub place: Place,
    pub mask: u32,
    /// Offsets in the space, or global addresses. Lanes outside the mask repeat its first one.
    pub addresses: W64,
}

/// How the lanes lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// All 32, one behind the other.
    Row,
    /// All at the same address.
    Same,
    Any,
}

/// Where the lanes' bytes lie on the host, checked.
// On the stack of one instruction and nowhere else: a box would cost more than the size.
#[allow(clippy::large_enum_variant)]
pub enum Reach {
    Row(*mut u8),
    Same(*mut u8),
    /// Lanes outside the mask repeat its first one.
    Any([*mut u8; LANES]),
}

/// What an access does, for checks and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    Atomic,
}

impl Act {
    fn words(self) -> &'static str {
        match self {
            Act::Read => "read",
            Act::Write => "write",
            Act::Atomic => "atomic access",
        }
    }
}

impl Target {
    /// The address in every lane.
    #[inline(always)]
    pub fn addresses(&self, exec: &Exec) -> W64 {
        let offset = if self.framed {
            self.offset.wrapping_add(u64::from(exec.warp.local_base))
        } else {
            self.offset
        };
        match self.base {
            None => [offset; LANES],
            Some(base) if base.wide => {
                let base = exec.regs.r64(base.slot);
                std::array::from_fn(|i| base[i].wrapping_add(offset))
            }
            Some(base) => {
                let base = exec.regs.r32(base.slot);
                std::array::from_fn(|i| u64::from(base[i].wrapping_add(offset as u32)))
            }
        }
    }

    /// The first lane of `rest` and those in the same state space.
    #[inline(always)]
    pub fn part(&self, rest: u32, addresses: &W64) -> Part {
        let mut addresses = *addresses;
        let first = addresses[rest.trailing_zeros() as usize & 31];
        if self.place != Place::Generic {
            repeat_first(rest, first, &mut addresses);
            return Part { place: self.place, mask: rest, addresses };
        }
        let place = place_of(first);
        let mut mask = 0;
        for (i, &address) in addresses.iter().enumerate() {
            mask |= u32::from(place_of(address) == place) << i;
        }
        mask &= rest;
        repeat_first(mask, first, &mut addresses);
        if place != Place::Global {
            for address in &mut addresses {
                *address &= !WINDOW_BITS;
            }
        }
        Part { place, mask, addresses }
    }
}

/// The bits of an address that say in which window it is.
const WINDOW_BITS: u64 = !0 << 44;

/// The state space of a generic address.
#[inline(always)]
fn place_of(address: u64) -> Place {
    match address & WINDOW_BITS {
        SHARED_WINDOW => Place::Shared,
        LOCAL_WINDOW => Place::Local,
        PARAM_WINDOW => Place::Param,
        _ => Place::Global,
    }
}

#[inline(always)]
fn repeat_first(mask: u32, first: u64, addresses: &mut W64) {
    if mask != FULL {
        for (i, address) in addresses.iter_mut().enumerate() {
            *address = if mask >> i & 1 != 0 { *address } else { first };
        }
    }
}

impl Part {
    /// How the lanes lie, when each touches `width` bytes.
    #[inline(always)]
    pub fn shape(&self, width: u32) -> Shape {
        let first = self.addresses[0];
        let (mut row, mut same) = (0, 0);
        for (i, &address) in self.addresses.iter().enumerate() {
            row |= address ^ first.wrapping_add(i as u64 * u64::from(width));
            same |= address ^ first;
        }
        match (row, same) {
            (_, 0) => Shape::Same,
            (0, _) if self.mask == FULL => Shape::Row,
            _ => Shape::Any,
        }
    }

    /// The first lane.
    pub fn first(&self) -> usize {
        self.mask.trailing_zeros() as usize & 31
    }

    /// Every access must be at a multiple of its size.
    #[inline(always)]
    pub fn aligned(&self, width: u32, act: Act) -> Result<(), Fault> {
        let low = self.addresses.iter().fold(0, |all, address| all | address);
        if low & u64::from(width - 1) == 0 { Ok(()) } else { Err(self.misaligned(width, act)) }
    }

    #[cold]
    fn misaligned(&self, width: u32, act: Act) -> Fault {
        let wrong = |&lane: &usize| self.addresses[lane] & u64::from(width - 1) != 0;
        let lane = lanes(self.mask).find(wrong).unwrap_or(self.first());
        let (what, space, at) = (act.words(), self.place.words(), self.addresses[lane]);
        let detail =
            format!("{what} of {width} bytes at {space}{at:#x}, not a multiple of {width}");
        Fault { kind: Kind::Misaligned, lane, detail }
    }

    /// A stray access to a space of `size` bytes.
    #[cold]
    pub fn outside(&self, width: u32, act: Act, size: u64) -> Fault {
        let (width, end) = (u64::from(width), size);
        let wrong = |&lane: &usize| self.addresses[lane].saturating_add(width) > end;
        let lane = lanes(self.mask).find(wrong).unwrap_or(self.first());
        let at = self.addresses[lane];
        let what = act.words();
        let space = self.place.words();
        let near = if at < end {
            format!("of which only {} are within the {end} bytes of it", end - at)
        } else if at >= 1 << 63 || self.place == Place::Shared && at >> 31 == 1 {
            let before = if at >= 1 << 63 { at.wrapping_neg() } else { (1 << 32) - at };
            format!("{before} bytes before its start")
        } else {
            format!("{} bytes past the end of the {end} bytes of it", at - end)
        };
        let detail = format!("{what} of {width} bytes at {space}{at:#x}, {near}");
        Fault { kind: Kind::OutOfBounds, lane, detail }
    }

    /// The lanes' bytes in a space that lies in one piece on the host.
    #[inline(always)]
    pub fn reach_linear(
        &self,
        width: u32,
        act: Act,
        host: *mut u8,
        size: u64,
    ) -> Result<Reach, Fault> {
        self.aligned(width, act)?;
        let limit = size.wrapping_sub(u64::from(width));
        let span = u64::from(width);
        let at = |address: u64| host.wrapping_add(address as usize);
        let first = self.addresses[0];
        let fits = |address: u64| address <= limit && size >= span;
        match self.shape(width) {
            Shape::Same if fits(first) => Ok(Reach::Same(at(first))),
            Shape::Row if fits(first) && fits(self.addresses[LANES - 1]) => {
                Ok(Reach::Row(at(first)))
            }
            Shape::Any if self.addresses.iter().fold(true, |all, &a| all & fits(a)) => {
                Ok(Reach::Any(self.addresses.map(at)))
            }
            _ => Err(self.outside(width, act, size)),
        }
    }
}

impl Place {
    pub fn words(self) -> &'static str {
        match self {
            Place::Global | Place::Generic => "",
            Place::Shared => "shared ",
            Place::Local => "local ",
            Place::Param => "param ",
        }
    }
}

/// Shared memory of the block, checked.
#[inline(always)]
pub fn reach_shared(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    let bytes = exec.block.shared_bytes();
    let size = u64::from(exec.grid.shared_bytes).min(bytes.len() as u64);
    part.reach_linear(width, act, bytes.as_mut_ptr(), size)
}

/// Global memory, checked and, if it is watched, looked at for what was never written. Writes count as
/// done from here on.
#[inline(always)]
pub fn reach_global(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    part.aligned(width, act)?;
    let first = part.addresses[0];
    let pc = exec.pc;
    if exec.block.lookup.find(exec.grid.memory, pc, first).is_err()
        && let Err(error) = exec.grid.memory.region(first, u64::from(width))
    {
        return Err(stray(error, part.first(), act));
    }
    let Some(region) = exec.block.lookup.region(pc) else {
        return reach_scattered(exec, part, width, act);
    };
    let watched = exec.grid.watched;
    let bytes = u64::from(width);
    match part.shape(width) {
        Shape::Row => {
            let Some(offset) = region.offset(first, bytes * LANES as u64) else {
                return reach_scattered(exec, part, width, act);
            };
            let reach = Reach::Row(region.pointer(offset));
            let fresh = look(region, offset, bytes * LANES as u64, act, watched);
            if fresh {
                return reach_scattered(exec, part, width, act);
            }
            Ok(reach)
        }
        Shape::Same => {
            let Some(offset) = region.offset(first, bytes) else {
                return reach_scattered(exec, part, width, act);
            };
            let reach = Reach::Same(region.pointer(offset));
            if look(region, offset, bytes, act, watched) {
                uninitialised(exec, part.first(), first, width, act);
                mark(exec, part, width, act);
            }
            Ok(reach)
        }
        Shape::Any => {
            let limit = region.bytes.wrapping_sub(bytes);
            let (base, all) = (region.base, region.bytes >= bytes);
            let fits = |address: u64| address.wrapping_sub(base) <= limit;
            if !part.addresses.iter().fold(all, |all, &address| all & fits(address)) {
                return reach_scattered(exec, part, width, act);
            }
            let host = region.pointer(0);
            let reach = Reach::Any(part.addresses.map(|a| host.wrapping_add((a - base) as usize)));
            if watched && !region.is_whole() {
                for lane in lanes(part.mask) {
                    let offset = part.addresses[lane] - base;
                    if look(region, offset, bytes, act, true) {
                        return reach_scattered(exec, part, width, act);
                    }
                }
            }
            Ok(reach)
        }
    }
}

/// Notes a write; true where something is read that was never written.
#[inline(always)]
fn look(region: &Region, offset: u64, bytes: u64, act: Act, watched: bool) -> bool {
    match act {
        Act::Write if watched => {
            region.mark(offset, bytes);
            false
        }
        Act::Read | Act::Atomic if watched => !region.is_written(offset, bytes),
        _ => false,
    }
}

/// The general case: lane by lane, each with its own allocation, with the first fault or finding named.
#[cold]
fn reach_scattered(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    let mut hosts = [std::ptr::null_mut(); LANES];
    let mut unwritten = None;
    exec.block.lookup.held.clear();
    for lane in lanes(part.mask) {
        let address = part.addresses[lane];
        let region = exec.grid.memory.region(address, u64::from(width));
        let region = region.map_err(|error| stray(error, lane, act))?;
        let offset = address - region.base;
        hosts[lane] = region.pointer(offset);
        if look(&region, offset, u64::from(width), act, exec.grid.watched) {
            unwritten.get_or_insert(lane);
        }
        exec.block.lookup.held.push(region);
    }
    let first = hosts[part.first()];
    for (lane, host) in hosts.iter_mut().enumerate() {
        if part.mask >> lane & 1 == 0 {
            *host = first;
        }
    }
    if let Some(lane) = unwritten {
        uninitialised(exec, lane, part.addresses[lane], width, act);
        mark(exec, part, width, act);
    }
    Ok(Reach::Any(hosts))
}

/// What an atomic has read uninitialised is written by it.
fn mark(exec: &Exec, part: &Part, width: u32, act: Act) {
    if act != Act::Atomic {
        return;
    }
    for lane in lanes(part.mask) {
        let address = part.addresses[lane];
        if let Ok(region) = exec.grid.memory.region(address, u64::from(width)) {
            region.mark(address - region.base, u64::from(width));
        }
    }
}

pub fn uninitialised(exec: &Exec, lane: usize, address: u64, width: u32, act: Act) {
    let near = match exec.grid.memory.region(address, 1) {
        Ok(region) => format!(
            ", {} bytes into the {} bytes at {:#x} (allocation {})",
            address - region.base,
            region.bytes,
            region.base,
            region.number
        ),
        Err(_) => String::new(),
    };
    let what = act.words();
    let detail = format!("{what} of {width} bytes at {address:#x} that nothing has written{near}");
    exec.find(Kind::Uninitialised, lane, detail, None);
}

#[cold]
pub fn stray(error: MemoryError, lane: usize, act: Act) -> Fault {
    let kind = match error {
        MemoryError::UseAfterFree { .. } => Kind::UseAfterFree,
        _ => Kind::OutOfBounds,
    };
    Fault { kind, lane, detail: format!("{} of {error}", act.words()) }
}

/// Tells the watchman of an access that is not a plain write.
#[inline(always)]
pub fn watch(exec: &mut Exec, part: &Part, width: u32, how: How, strong: bool) {
    if exec.grid.watched {
        tell(exec, part, Access { how, strong, ..access(exec, part, width) });
    }
}

/// What every access has; a weak read so far.
pub fn access<'a>(exec: &Exec, part: &'a Part, width: u32) -> Access<'a> {
    Access {
        warp: exec.warp.index,
        mask: part.mask,
        addresses: &part.addresses,
        bytes: width,
        how: How::Read,
        strong: false,
        unchanged: 0,
        values: &[],
        pc: exec.pc,
    }
}

/// Tells the watchman.
pub fn tell(exec: &mut Exec, part: &Part, access: Access) {
    match part.place {
        Place::Shared => exec.block.watch.shared(exec.grid, &access),
        Place::Global => exec.block.watch.global(exec.grid, &access),
        _ => {}
    }
}
