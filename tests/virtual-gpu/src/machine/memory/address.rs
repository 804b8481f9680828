//! Where the lanes of an access point: state spaces, how the lanes lie to each other, alignment.

use super::super::lower::Base;
use super::super::program::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use super::super::registers::{FULL, LANES, W64, lanes};
use super::super::{Exec, Fault};
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
    /// The bits in which the addresses differ from each other.
    spread: u64,
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

/// What an access does, for checks and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Read,
    Write,
    Atomic,
}

impl Act {
    pub fn words(self) -> &'static str {
        match self {
            Act::Read => "read",
            Act::Write => "write",
            Act::Atomic => "atomic access",
        }
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

impl Target {
    /// The address in every lane.
    #[inline(always)]
    pub fn addresses(&self, exec: &Exec) -> W64 {
        let mut addresses = [0; LANES];
        self.write_addresses(exec, &mut addresses);
        addresses
    }

    /// In place, since a copy of 32 addresses costs as much as computing them.
    #[inline(always)]
    fn write_addresses(&self, exec: &Exec, to: &mut W64) {
        let offset = if self.framed {
            self.offset.wrapping_add(u64::from(exec.warp.local_base))
        } else {
            self.offset
        };
        match self.base {
            None => to.fill(offset),
            Some(base) if base.wide => {
                for (to, base) in to.iter_mut().zip(exec.regs.r64(base.slot)) {
                    *to = base.wrapping_add(offset);
                }
            }
            Some(base) => {
                for (to, base) in to.iter_mut().zip(exec.regs.r32(base.slot)) {
                    *to = u64::from(base.wrapping_add(offset as u32));
                }
            }
        }
    }

    /// The first lane of `rest` and those in the same state space.
    pub fn part(&self, rest: u32, addresses: &W64) -> Part {
        if self.place != Place::Generic {
            return Part::new(self.place, rest, *addresses);
        }
        let place = place_of(addresses[rest.trailing_zeros() as usize & 31]);
        let same = |&lane: &usize| place_of(addresses[lane]) == place;
        let mask = lanes(rest).filter(same).fold(0, |mask, lane| mask | 1 << lane);
        let mut part = Part::new(place, mask, *addresses);
        part.within_window();
        part
    }

    /// Calls `f` for the lanes of each state space; nearly always that is all of them at once.
    #[inline(always)]
    pub fn for_parts<T>(
        &self,
        op: &T,
        exec: &mut Exec,
        f: fn(&T, &mut Exec, &Part) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut part =
            Part { place: self.place, mask: exec.mask, addresses: [0; LANES], spread: 0 };
        self.write_addresses(exec, &mut part.addresses);
        part.settle();
        if self.place == Place::Generic {
            if part.spread & WINDOW_BITS != 0 {
                return self.for_each_part(op, exec, f);
            }
            part.place = place_of(part.addresses[0]);
            if part.place != Place::Global {
                part.within_window();
            }
        }
        f(op, exec, &part)
    }

    #[cold]
    fn for_each_part<T>(
        &self,
        op: &T,
        exec: &mut Exec,
        f: fn(&T, &mut Exec, &Part) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let addresses = self.addresses(exec);
        let mut rest = exec.mask;
        while rest != 0 {
            let part = self.part(rest, &addresses);
            rest &= !part.mask;
            f(op, exec, &part)?;
        }
        Ok(())
    }
}

impl Part {
    /// Lanes that are known to be in one space.
    pub fn new(place: Place, mask: u32, addresses: W64) -> Part {
        let mut part = Part { place, mask, addresses, spread: 0 };
        part.settle();
        part
    }

    #[inline(always)]
    fn settle(&mut self) {
        let (mask, first) = (self.mask, self.addresses[self.first()]);
        if mask != FULL {
            for (i, address) in self.addresses.iter_mut().enumerate() {
                *address = if mask >> i & 1 != 0 { *address } else { first };
            }
        }
        self.spread = self.addresses.iter().fold(0, |all, address| all | (address ^ first));
    }

    /// Generic addresses become offsets in their window; those of global memory stay.
    fn within_window(&mut self) {
        if self.place != Place::Global {
            for address in &mut self.addresses {
                *address &= !WINDOW_BITS;
            }
        }
    }

    /// How the lanes lie, when each touches `width` bytes.
    #[inline(always)]
    pub fn shape(&self, width: u32) -> Shape {
        if self.spread == 0 {
            return Shape::Same;
        }
        let (first, width) = (self.addresses[0], u64::from(width));
        let last = first.wrapping_add((LANES as u64 - 1) * width);
        if self.mask != FULL || self.addresses[LANES - 1] != last {
            return Shape::Any;
        }
        let mut next = first;
        let mut differ = 0;
        for address in self.addresses {
            differ |= address ^ next;
            next = next.wrapping_add(width);
        }
        if differ == 0 { Shape::Row } else { Shape::Any }
    }

    /// The first lane.
    pub fn first(&self) -> usize {
        self.mask.trailing_zeros() as usize & 31
    }

    /// Every access must be at a multiple of its size.
    #[inline(always)]
    pub fn aligned(&self, width: u32, act: Act) -> Result<(), Fault> {
        let low = self.addresses[0] | self.spread;
        if low & u64::from(width - 1) == 0 { Ok(()) } else { Err(self.misaligned(width, act)) }
    }

    /// Whether all lanes are within the `size` bytes at `base`.
    #[inline(always)]
    pub fn fits(&self, width: u32, base: u64, size: u64) -> bool {
        let Some(limit) = size.checked_sub(u64::from(width)) else { return false };
        // What the addresses differ in is below the highest bit of `spread`, which bounds them all.
        let below = u64::MAX.checked_shr(self.spread.leading_zeros()).unwrap_or(0);
        let (low, high) = (self.addresses[0] & !below, self.addresses[0] | below);
        if low >= base && high - base <= limit {
            return true;
        }
        self.addresses.iter().fold(true, |all, address| all & (address.wrapping_sub(base) <= limit))
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
