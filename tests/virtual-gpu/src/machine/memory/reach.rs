//! From the lanes' addresses to bytes on the host: bounds, and what was written before.

use super::super::registers::{LANES, lanes};
use super::super::{Exec, Fault};
use super::address::{Act, Part, Shape};
use crate::memory::{MemoryError, Region};
use crate::watch::Kind;

/// Where the lanes' bytes lie on the host, checked.
#[derive(Debug)]
pub enum Reach {
    Row(*mut u8),
    Same(*mut u8),
    /// At its address from here, every lane.
    Any(*mut u8),
    /// In several allocations. Lanes outside the mask repeat its first one.
    Each(Box<[*mut u8; LANES]>),
}

impl Reach {
    /// Where one lane's bytes begin.
    #[inline(always)]
    pub fn lane(&self, part: &Part, width: usize, lane: usize) -> *mut u8 {
        match self {
            Reach::Row(host) => host.wrapping_add(lane * width),
            Reach::Same(host) => *host,
            Reach::Any(from) => from.wrapping_add(part.addresses[lane] as usize),
            Reach::Each(hosts) => hosts[lane],
        }
    }
}

/// Shared memory of the block, checked.
#[inline(always)]
pub fn reach_shared(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    part.aligned(width, act)?;
    let bytes = exec.block.shared_bytes();
    let size = u64::from(exec.grid.shared_bytes).min(bytes.len() as u64);
    if !part.fits(width, 0, size) {
        return Err(part.outside(width, act, size));
    }
    let host = bytes.as_mut_ptr();
    let first = host.wrapping_add(part.addresses[0] as usize);
    Ok(match part.shape(width) {
        Shape::Row => Reach::Row(first),
        Shape::Same => Reach::Same(first),
        Shape::Any => Reach::Any(host),
    })
}

/// Global memory, checked and, if it is watched, looked at for what was never written. Writes count as
/// done from here on.
#[inline(always)]
pub fn reach_global(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    part.aligned(width, act)?;
    let first = part.addresses[0];
    let pc = exec.pc;
    if exec.block.lookup.find(exec.grid.memory, pc, first).is_err() {
        return reach_scattered(exec, part, width, act);
    }
    let Some(region) = exec.block.lookup.region(pc) else {
        return reach_scattered(exec, part, width, act);
    };
    let watched = exec.grid.watched;
    let (shape, bytes) = (part.shape(width), u64::from(width));
    let reach = match shape {
        Shape::Row | Shape::Same => {
            let bytes = if shape == Shape::Row { bytes * LANES as u64 } else { bytes };
            let Some(offset) = region.offset(first, bytes) else {
                return reach_scattered(exec, part, width, act);
            };
            if watched && !look(region, offset, bytes, act) {
                return reach_scattered(exec, part, width, act);
            }
            let host = region.pointer(offset);
            if shape == Shape::Row { Reach::Row(host) } else { Reach::Same(host) }
        }
        Shape::Any => {
            if !part.fits(width, region.base, region.bytes) {
                return reach_scattered(exec, part, width, act);
            }
            if watched && !region.is_whole() {
                let known =
                    |lane: usize| look(region, part.addresses[lane] - region.base, bytes, act);
                if !lanes(part.mask).fold(true, |all, lane| all & known(lane)) {
                    return reach_scattered(exec, part, width, act);
                }
            }
            Reach::Any(region.pointer(0).wrapping_sub(region.base as usize))
        }
    };
    Ok(reach)
}

/// Notes a write; false where something is read that was never written.
#[inline(always)]
fn look(region: &Region, offset: u64, bytes: u64, act: Act) -> bool {
    if act == Act::Write {
        region.mark(offset, bytes);
        return true;
    }
    region.is_written(offset, bytes)
}

/// The general case: lane by lane, each with its own allocation, with the first fault or finding named.
#[cold]
fn reach_scattered(exec: &mut Exec, part: &Part, width: u32, act: Act) -> Result<Reach, Fault> {
    let bytes = u64::from(width);
    let mut hosts = Box::new([std::ptr::null_mut(); LANES]);
    let mut unwritten = None;
    exec.block.lookup.held.clear();
    for lane in lanes(part.mask) {
        let address = part.addresses[lane];
        let region = exec.grid.memory.region(address, bytes);
        let region = region.map_err(|error| stray(error, lane, act))?;
        let offset = address - region.base;
        hosts[lane] = region.pointer(offset);
        if exec.grid.watched && !look(&region, offset, bytes, act) {
            unwritten.get_or_insert(lane);
            if act == Act::Atomic {
                region.mark(offset, bytes);
            }
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
    }
    Ok(Reach::Each(hosts))
}

/// Tells the log of a read of what was never written.
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
