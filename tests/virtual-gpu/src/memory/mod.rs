//! Device memory: allocations at addresses that are never used twice, so that every stray access is known.
//!
//! An allocation is a [`Region`]: bytes on the host, taken from the system only as they are touched, and a
//! bit for each of them that says whether it was ever written. Device addresses are invented, lie far above
//! any host address, and have a wide gap between allocations; pinned, registered and managed memory is seen
//! by the device at its host address.

mod lookup;
mod region;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use lookup::Lookup;
pub use region::{Origin, Region};

/// Address of the first allocation: above every address of a process on x86-64 and AArch64.
pub const DEVICE_BASE: u64 = 0x0000_8000_0000_0000;
/// First address behind those for allocations: the windows of the other state spaces begin here.
const DEVICE_END: u64 = 0x0000_9000_0000_0000;
/// Where allocations go on once a long run has used up the addresses below the windows.
const DEVICE_MORE: u64 = 0x0001_0000_0000_0000;
/// Alignment of allocations, as cuMemAlloc has it at least.
const ALIGN: u64 = 512;
/// Addresses left free behind an allocation.
const GAP: u64 = 1 << 20;
/// How many freed allocations are remembered for messages.
const REMEMBERED: usize = 1 << 20;
/// Bytes whose marks `copy` moves at a time.
const COPY_CHUNK: u64 = 64 << 10;

/// Why an address cannot be accessed, or memory not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    #[error("allocating 0 bytes: an allocation needs at least one")]
    NoBytes,
    #[error("allocating {asked} bytes: {free} of {total} bytes are free")]
    OutOfMemory { asked: u64, free: u64, total: u64 },
    #[error("{bytes} bytes at {address:#x}, {near}")]
    OutOfBounds { address: u64, bytes: u64, near: String },
    #[error("{bytes} bytes at {address:#x}, {near}")]
    UseAfterFree { address: u64, bytes: u64, near: String },
    #[error("{address:#x} is not the start of an allocation: {near}")]
    NotAnAllocation { address: u64, near: String },
    #[error("{bytes} bytes of host memory at {address:#x} are registered already, in part or all")]
    AlreadyRegistered { address: u64, bytes: u64 },
}

/// The device's memory; shared by all host threads.
#[derive(Debug)]
pub struct Memory {
    total: u64,
    table: RwLock<Table>,
    /// Changes with the table, and is never the same for two tables: what `Lookup` goes by.
    generation: AtomicU64,
}

static GENERATIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug, Default)]
struct Table {
    live: BTreeMap<u64, Arc<Region>>,
    /// Bytes and number of what was freed, by address.
    freed: BTreeMap<u64, (u64, u64)>,
    next: u64,
    used: u64,
    /// Allocations so far.
    count: u64,
}

impl Table {
    /// The region that holds all of these bytes.
    fn region(&self, address: u64, bytes: u64) -> Result<&Arc<Region>, MemoryError> {
        match self.live.range(..=address).next_back() {
            Some((_, region)) if region.offset(address, bytes).is_some() => Ok(region),
            _ => Err(self.stray(address, bytes)),
        }
    }

    /// What is wrong with an access that is not within a live region, and what is near it.
    #[cold]
    fn stray(&self, address: u64, bytes: u64) -> MemoryError {
        let inside = |base: u64, size: u64| address >= base && address - base < size;
        if let Some((&base, region)) = self.live.range(..=address).next_back()
            && inside(base, region.bytes)
        {
            let left = region.end() - address;
            let near = format!(
                "of which only {left} are within {}",
                named(base, region.bytes, region.number)
            );
            return MemoryError::OutOfBounds { address, bytes, near };
        }
        if let Some((&base, &(size, number))) = self.freed.range(..=address).next_back()
            && inside(base, size)
        {
            let near = format!("in {}, which were freed", named(base, size, number));
            return MemoryError::UseAfterFree { address, bytes, near };
        }
        MemoryError::OutOfBounds { address, bytes, near: self.near(address) }
    }

    /// The nearest allocation, in words.
    fn near(&self, address: u64) -> String {
        if address < 1 << 16 {
            return "a null pointer or close to one".to_owned();
        }
        let live = |(&base, r): (&u64, &Arc<Region>)| (base, r.bytes, r.number, "");
        let freed = |(&base, &(size, number)): (&u64, &(u64, u64))| (base, size, number, ", freed");
        let neighbours = [
            self.live.range(..=address).next_back().map(live),
            self.live.range(address..).next().map(live),
            self.freed.range(..=address).next_back().map(freed),
            self.freed.range(address..).next().map(freed),
        ];
        let distance = |base: u64, size: u64| {
            if address < base { base - address } else { address - (base + size) }
        };
        let nearest = neighbours
            .into_iter()
            .flatten()
            .min_by_key(|&(base, size, _, freed)| (distance(base, size), !freed.is_empty()));
        match nearest {
            Some((base, size, number, freed)) if distance(base, size) < 1 << 40 => {
                let distance = distance(base, size);
                let side = if address < base { "before" } else { "past the end of" };
                format!("{distance} bytes {side} {}{freed}", named(base, size, number))
            }
            _ if address < DEVICE_BASE => {
                "an address of the host that is neither pinned nor registered nor managed"
                    .to_owned()
            }
            _ => "far from every allocation".to_owned(),
        }
    }

    fn not_an_allocation(&self, address: u64) -> MemoryError {
        if let Some((size, number)) = self.freed.get(&address) {
            let near = format!("{} were freed before", named(address, *size, *number));
            return MemoryError::NotAnAllocation { address, near };
        }
        let near = match self.live.range(..=address).next_back() {
            Some((&base, region)) if address - base < region.bytes => {
                let inside = named(base, region.bytes, region.number);
                format!("it is {} bytes into {inside}", address - base)
            }
            _ => self.near(address),
        };
        MemoryError::NotAnAllocation { address, near }
    }
}

fn named(base: u64, bytes: u64, number: u64) -> String {
    format!("the {bytes} bytes at {base:#x} (allocation {number})")
}

impl Memory {
    /// A device with this many bytes.
    pub fn new(total: u64) -> Memory {
        let table = Table { next: DEVICE_BASE, ..Table::default() };
        let generation = AtomicU64::new(GENERATIONS.fetch_add(1, Ordering::Relaxed));
        Memory { total, table: RwLock::new(table), generation }
    }

    /// Memory of this many bytes, aligned to 512, contents undefined (and known as such).
    ///
    /// # Errors
    /// No bytes asked for, or more than are free.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        let mut table = self.change();
        let out = MemoryError::OutOfMemory {
            asked: bytes,
            free: self.total - table.used,
            total: self.total,
        };
        if bytes == 0 {
            return Err(MemoryError::NoBytes);
        }
        let Some(taken) = bytes.checked_next_multiple_of(ALIGN) else { return Err(out) };
        if taken > self.total - table.used {
            return Err(out);
        }
        let mut base = table.next;
        if base < DEVICE_END && taken + GAP > DEVICE_END - base {
            base = DEVICE_MORE;
        }
        let region = Region::device(base, bytes, table.count + 1).ok_or(out)?;
        table.next = base + taken + GAP;
        table.used += taken;
        table.count += 1;
        table.live.insert(base, Arc::new(region));
        Ok(base)
    }

    /// Gives device or host memory back that `alloc` or `alloc_host` gave.
    ///
    /// # Errors
    /// The address is not the start of such an allocation.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.change();
        match table.live.get(&address) {
            Some(region) if region.origin != Origin::Registered => {
                if region.origin == Origin::Device {
                    table.used -= region.bytes.next_multiple_of(ALIGN);
                }
                self.forget(&mut table, address);
                Ok(())
            }
            _ => Err(table.not_an_allocation(address)),
        }
    }

    /// Pinned or managed memory of the host, which the device sees at the same address. Zeroed.
    ///
    /// # Errors
    /// No bytes asked for, or more than the host has.
    pub fn alloc_host(&self, bytes: u64) -> Result<u64, MemoryError> {
        if bytes == 0 {
            return Err(MemoryError::NoBytes);
        }
        let mut table = self.change();
        let region = Region::host(bytes, table.count + 1).ok_or(MemoryError::OutOfMemory {
            asked: bytes,
            free: 0,
            total: self.total,
        })?;
        let base = region.base;
        table.count += 1;
        table.live.insert(base, Arc::new(region));
        Ok(base)
    }

    /// Lets the device see the program's own memory, at its own address.
    ///
    /// # Safety
    /// The memory stays valid until `unregister_host`.
    ///
    /// # Errors
    /// No bytes, or some of them are known to the device already.
    pub unsafe fn register_host(&self, host: *mut u8, bytes: u64) -> Result<u64, MemoryError> {
        let address = host as u64;
        if bytes == 0 {
            return Err(MemoryError::NoBytes);
        }
        let mut table = self.change();
        let end = address.saturating_add(bytes);
        let before = table.live.range(..end).next_back();
        if before.is_some_and(|(_, region)| region.end() > address) {
            return Err(MemoryError::AlreadyRegistered { address, bytes });
        }
        let region = Region::registered(host, bytes, table.count + 1, Origin::Registered);
        table.count += 1;
        table.live.insert(address, Arc::new(region));
        Ok(address)
    }

    /// Takes back `register_host`.
    ///
    /// # Errors
    /// The address is not the start of a registered range.
    pub fn unregister_host(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.change();
        match table.live.get(&address) {
            Some(region) if region.origin == Origin::Registered => {
                self.forget(&mut table, address);
                Ok(())
            }
            _ => Err(table.not_an_allocation(address)),
        }
    }

    /// Copies from the host; these bytes are initialised from then on.
    ///
    /// # Errors
    /// The bytes are not all within one live allocation.
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let bytes = data.len() as u64;
        if bytes == 0 {
            return Ok(());
        }
        let (region, offset) = self.place(address, bytes)?;
        // SAFETY: `place` has checked the range. `copy`, since pinned memory may be written from itself.
        unsafe { std::ptr::copy(data.as_ptr(), region.pointer(offset), data.len()) };
        region.mark(offset, bytes);
        Ok(())
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// As for `write`.
    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        if data.is_empty() {
            return Ok(());
        }
        let (region, offset) = self.place(address, data.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy(region.pointer(offset), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Writes the low `width` (1, 2 or 4) bytes of `pattern`, `count` times.
    ///
    /// # Errors
    /// As for `write`.
    pub fn fill(
        &self,
        address: u64,
        pattern: u32,
        width: u32,
        count: u64,
    ) -> Result<(), MemoryError> {
        let bytes = count.saturating_mul(u64::from(width));
        if count == 0 {
            return Ok(());
        }
        let (region, offset) = self.place(address, bytes)?;
        let unit = &pattern.to_le_bytes()[..(width as usize).min(4)];
        if unit.iter().all(|&byte| byte == 0) {
            region.zero(offset, bytes);
        } else if unit.iter().all(|&byte| byte == unit[0]) {
            // SAFETY: `place` has checked the range.
            unsafe { region.pointer(offset).write_bytes(unit[0], bytes as usize) };
        } else {
            for i in 0..count {
                let to = region.pointer(offset + i * u64::from(width));
                // SAFETY: the unit is within the range that `place` has checked.
                unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to, unit.len()) };
            }
        }
        region.mark(offset, bytes);
        Ok(())
    }

    /// Copies within the device, between overlapping ranges too; uninitialised bytes stay so.
    ///
    /// # Errors
    /// Either range is not all within one live allocation.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let (source, start) = self.place(from, bytes)?;
        let (target, offset) = self.place(to, bytes)?;
        // SAFETY: `place` has checked both ranges; `copy` allows them to overlap.
        unsafe {
            std::ptr::copy(source.pointer(start), target.pointer(offset), bytes as usize);
        }
        let chunks = bytes.div_ceil(COPY_CHUNK);
        for i in 0..chunks {
            // Overlapping ranges: from the end that is not overwritten before it is read.
            let at = if to < from { i } else { chunks - 1 - i } * COPY_CHUNK;
            let len = COPY_CHUNK.min(bytes - at);
            target.copy_marks(offset + at, &source, start + at, len);
        }
        if bytes == target.bytes {
            // Learns that all is written, which the chunks cannot see.
            target.note_whole();
        }
        Ok(())
    }

    /// Start and size of the live allocation that an address is in.
    pub fn range_of(&self, address: u64) -> Option<(u64, u64)> {
        self.table().region(address, 1).ok().map(|region| (region.base, region.bytes))
    }

    /// Free and total bytes.
    pub fn info(&self) -> (u64, u64) {
        (self.total - self.table().used, self.total)
    }

    /// Whether all of these bytes were written before: what the watchman asks.
    ///
    /// # Errors
    /// As for `write`.
    pub fn is_written(&self, address: u64, bytes: u64) -> Result<bool, MemoryError> {
        let (region, offset) = self.place(address, bytes)?;
        Ok(region.is_written(offset, bytes))
    }

    /// The region that holds all of these bytes.
    ///
    /// # Errors
    /// They are not all within one live allocation.
    pub fn region(&self, address: u64, bytes: u64) -> Result<Arc<Region>, MemoryError> {
        self.table().region(address, bytes).cloned()
    }

    /// A number that stays the same as long as no memory comes or goes.
    #[inline(always)]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn place(&self, address: u64, bytes: u64) -> Result<(Arc<Region>, u64), MemoryError> {
        let region = self.region(address, bytes)?;
        let offset = address - region.base;
        Ok((region, offset))
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table> {
        let table = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.generation.store(GENERATIONS.fetch_add(1, Ordering::Relaxed), Ordering::Release);
        table
    }

    fn forget(&self, table: &mut Table, address: u64) {
        if let Some(region) = table.live.remove(&address) {
            table.freed.insert(address, (region.bytes, region.number));
            if table.freed.len() > REMEMBERED {
                table.freed.pop_first();
            }
        }
    }
}
