//! Device memory: allocations at addresses that are never used twice, so that every stray access is known.

use std::collections::BTreeMap;
use std::sync::RwLock;

/// Address of the first allocation.
pub const DEVICE_BASE: u64 = 0x0000_8000_0000_0000;

/// Why an address cannot be accessed, or memory not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    #[error("allocating {asked} bytes: {free} of {total} bytes are free")]
    OutOfMemory { asked: u64, free: u64, total: u64 },
    #[error("{bytes} bytes at {address:#x} are in no allocation{near}")]
    OutOfBounds { address: u64, bytes: u64, near: String },
    #[error("{bytes} bytes at {address:#x} are in memory that was freed")]
    UseAfterFree { address: u64, bytes: u64 },
    #[error("{address:#x} is not the start of an allocation")]
    NotAnAllocation { address: u64 },
}

/// The device's memory; shared by all host threads.
#[derive(Debug)]
pub struct Memory {
    total: u64,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    allocations: BTreeMap<u64, Allocation>,
    next: u64,
    used: u64,
}

#[derive(Debug)]
struct Allocation {
    bytes: u64,
    data: Box<[u64]>,
    freed: bool,
}

impl Memory {
    pub fn new(total: u64) -> Memory {
        Memory { total, table: RwLock::new(Table { next: DEVICE_BASE, ..Table::default() }) }
    }

    /// Memory of this many bytes, aligned to 512, contents undefined.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        let mut table = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let free = self.total - table.used;
        if bytes > free {
            return Err(MemoryError::OutOfMemory { asked: bytes, free, total: self.total });
        }
        let address = table.next;
        let words = usize::try_from(bytes.div_ceil(8)).unwrap_or(usize::MAX);
        table.next += bytes.div_ceil(512) * 512 + 4096;
        table.used += bytes;
        table.allocations.insert(
            address,
            Allocation { bytes, data: vec![0; words].into_boxed_slice(), freed: false },
        );
        Ok(address)
    }

    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut table = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let Some(allocation) = table.allocations.get_mut(&address) else {
            return Err(MemoryError::NotAnAllocation { address });
        };
        if allocation.freed {
            return Err(MemoryError::UseAfterFree { address, bytes: 0 });
        }
        allocation.freed = true;
        allocation.data = Box::default();
        let bytes = allocation.bytes;
        table.used -= bytes;
        Ok(())
    }

    /// Where these bytes lie on the host.
    pub fn resolve(&self, address: u64, bytes: u64) -> Result<*mut u8, MemoryError> {
        let table = self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let nowhere = || MemoryError::OutOfBounds { address, bytes, near: String::new() };
        let (start, allocation) =
            table.allocations.range(..=address).next_back().ok_or_else(nowhere)?;
        let offset = address - start;
        if offset.checked_add(bytes).is_none_or(|end| end > allocation.bytes) {
            return Err(nowhere());
        }
        if allocation.freed {
            return Err(MemoryError::UseAfterFree { address, bytes });
        }
        // SAFETY: offset + bytes is within the allocation's data.
        Ok(unsafe { allocation.data.as_ptr().cast::<u8>().add(offset as usize).cast_mut() })
    }

    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), MemoryError> {
        let to = self.resolve(address, data.len() as u64)?;
        // SAFETY: resolve has checked the range, and device memory never overlaps a host slice.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
        Ok(())
    }

    pub fn read(&self, address: u64, data: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.resolve(address, data.len() as u64)?;
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(from, data.as_mut_ptr(), data.len()) };
        Ok(())
    }
}
