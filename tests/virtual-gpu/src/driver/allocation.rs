//! What the program has allocated: device memory, pinned, registered and managed host memory.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Error, Result};
use super::handle::lock;
use super::state::Driver;

/// One allocation, by its first address: on the device, or on the host and the same on both sides.
pub struct Allocation {
    pub base: u64,
    /// In bytes, as asked for.
    pub bytes: u64,
    pub context: usize,
    pub origin: Origin,
    /// Never given twice: CU_POINTER_ATTRIBUTE_BUFFER_ID.
    pub id: u64,
}

/// Where it comes from, which says who may free it.
pub enum Origin {
    /// cuMemAlloc and its like.
    Device,
    /// cuMemAllocAsync: the pool's handle.
    Pool(usize),
    /// A graph's allocation node.
    Graph,
    /// cuMemHostAlloc, with its flags.
    Pinned(u32),
    /// cuMemHostRegister: the program's own memory, with the call's flags.
    Registered(u32),
    /// cuMemAllocManaged.
    Managed,
}

/// All of them.
#[derive(Default)]
pub struct Allocations {
    by_base: Mutex<BTreeMap<u64, Allocation>>,
    last_id: AtomicU64,
}

impl Allocations {
    pub fn insert(&self, base: u64, bytes: u64, context: usize, origin: Origin) {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.by_base).insert(base, Allocation { base, bytes, context, origin, id });
    }

    /// Looks at the allocation that an address is in, if it is in one.
    pub fn at<T>(&self, address: u64, look: impl FnOnce(&Allocation) -> T) -> Option<T> {
        let by_base = lock(&self.by_base);
        let (_, found) = by_base.range(..=address).next_back()?;
        (address - found.base < found.bytes.max(1)).then(|| look(found))
    }

    /// Takes out the allocation that begins at an address, if `may` allows.
    ///
    /// # Errors
    /// What `wrong` says, for an address at which nothing begins or for which `may` does not allow it.
    pub fn remove(
        &self,
        base: u64,
        wrong: Error,
        may: impl FnOnce(&Allocation) -> bool,
    ) -> Result<Allocation> {
        let mut by_base = lock(&self.by_base);
        if !by_base.get(&base).is_some_and(may) {
            return Err(wrong);
        }
        by_base.remove(&base).ok_or(wrong)
    }

    /// Bytes that `wanted` allocations have.
    pub fn bytes_of(&self, wanted: impl Fn(&Allocation) -> bool) -> u64 {
        lock(&self.by_base).values().filter(|found| wanted(found)).map(|found| found.bytes).sum()
    }

    /// Frees all that a context still has.
    pub fn free_all_of(&self, driver: &Driver, context: usize) {
        self.free_those(driver, |allocation| allocation.context == context);
    }

    pub fn free_those(&self, driver: &Driver, wanted: impl Fn(&Allocation) -> bool) {
        let bases: Vec<u64> = {
            let by_base = lock(&self.by_base);
            by_base.values().filter(|found| wanted(found)).map(|found| found.base).collect()
        };
        for base in bases {
            if let Ok(allocation) = self.remove(base, Error::InvalidValue, |_| true) {
                // A context's end has nobody to tell what could not be freed.
                let _ = release(driver, allocation);
            }
        }
    }
}

/// Gives the memory back.
///
/// # Errors
/// What the device's memory says to an address that it did not give.
pub fn release(driver: &Driver, allocation: Allocation) -> Result {
    let memory = driver.gpu.memory();
    let freed = match allocation.origin {
        Origin::Registered(_) => memory.unregister_host(allocation.base),
        _ => memory.free(allocation.base),
    };
    freed.map_err(|wrong| super::memory::refused("free", &wrong))
}
