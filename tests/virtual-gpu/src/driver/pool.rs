//! Stream-ordered allocation: cuMemAllocAsync and memory pools.
//!
//! Work is done in the order of the calls, so memory comes from the device at the call and goes back at
//! the call: a pool only counts. Nothing is kept for reuse, which lets the watchman see every stale use.

use std::sync::Mutex;

use super::abi::{Host, In, Out, call};
use super::allocation::{Origin, release};
use super::device::check_device;
use super::error::{Error, Result};
use super::handle::lock;
use super::host::Location;
use super::memory::allocate;
use super::state::{Driver, driver, working};
use super::stream::{Place, stream};
use super::work::Work;

use std::sync::atomic::Ordering;

/// A pool: its attributes as they were set.
pub struct Pool {
    /// Reuse by events, opportunistic, by inserted dependencies; the release threshold in bytes.
    settings: Mutex<[u64; 4]>,
    used_high: Mutex<u64>,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool { settings: Mutex::new([1, 1, 1, 0]), used_high: Mutex::new(0) }
    }
}

impl Pool {
    fn used(&self, driver: &Driver, handle: usize) -> u64 {
        driver
            .allocations
            .bytes_of(|found| matches!(found.origin, Origin::Pool(pool) if pool == handle))
    }
}

fn from_pool(out: Out<u64>, bytes: usize, handle: usize, on: usize) -> Result {
    let place = stream(on)?;
    place.context.healthy()?;
    let driver = place.driver;
    out.check()?;
    let pool = driver.pools.get(handle)?;
    if let Some(capturing) = driver.captures.of(&place) {
        if capturing.capture.is_broken() {
            return Err(Error::StreamCaptureInvalidated);
        }
        let address = allocate(driver, place.context.handle, bytes, Origin::Graph)?;
        driver.graphs.get(capturing.capture.graph_handle)?.own(address);
        driver.captures.keep(&place, Work::Allocate(address))?;
        return out.put(address);
    }
    let address = allocate(driver, place.context.handle, bytes, Origin::Pool(handle))?;
    let used = pool.used(driver, handle);
    let mut high = lock(&pool.used_high);
    *high = used.max(*high);
    out.put(address)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: usize) -> u32 {
    call("cuMemAllocAsync", || {
        let pool = driver()?.current_pool.load(Ordering::Relaxed);
        from_pool(out, bytes, pool, stream)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemAllocFromPoolAsync(
    out: Out<u64>,
    bytes: usize,
    pool: usize,
    stream: usize,
) -> u32 {
    call("cuMemAllocFromPoolAsync", || from_pool(out, bytes, pool, stream))
}

fn free(place: &Place, address: u64) -> Result {
    let driver = place.driver;
    if driver.captures.of(place).is_some() {
        // A graph frees only what a graph allocated: that stays with it for the next launch.
        let own = driver
            .allocations
            .at(address, |found| found.base == address && matches!(found.origin, Origin::Graph));
        if own != Some(true) {
            return Err(Error::InvalidValue);
        }
        return driver.captures.keep(place, Work::Free(address)).map(drop);
    }
    let freed = driver.allocations.remove(address, Error::InvalidValue, |found| {
        matches!(found.origin, Origin::Pool(_) | Origin::Device)
    });
    match freed {
        Ok(allocation) => release(driver, allocation)?,
        Err(error) => {
            let of_graph = |found: &super::allocation::Allocation| {
                found.base == address && matches!(found.origin, Origin::Graph)
            };
            if driver.allocations.at(address, of_graph) != Some(true) {
                let why = format!("{address:#x} is not the start of an allocation");
                super::abi::tell("cuMemFreeAsync", &why);
                return Err(error);
            }
        }
    }
    // A fault does not keep the memory; it is told when the memory is back.
    place.context.healthy()
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemFreeAsync(address: u64, on: usize) -> u32 {
    call("cuMemFreeAsync", || {
        let place = stream(on)?;
        if address == 0 { Err(Error::InvalidValue) } else { free(&place, address) }
    })
}

/// CUmemPoolProps, as far as it matters: all of it is 88 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Properties {
    /// CU_MEM_ALLOCATION_TYPE_PINNED.
    kind: u32,
    handle_types: u32,
    location: Location,
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolCreate(out: Out<usize>, properties: In<Properties>) -> u32 {
    call("cuMemPoolCreate", || {
        let (driver, _) = working()?;
        out.check()?;
        let properties = properties.get()?;
        // CU_MEM_LOCATION_TYPE_DEVICE.
        if properties.kind != 1 || properties.location.kind != 1 {
            return Err(Error::InvalidValue);
        }
        check_device(properties.location.id)?;
        if properties.handle_types != 0 {
            return Err(Error::NotSupported);
        }
        out.put(driver.pools.insert(Pool::default()))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolDestroy(pool: usize) -> u32 {
    call("cuMemPoolDestroy", || {
        let driver = driver()?;
        if pool == driver.default_pool {
            return Err(Error::InvalidValue);
        }
        driver.pools.remove(pool)?;
        // What it gave is freed as its users free it.
        let _ = driver.current_pool.compare_exchange(
            pool,
            driver.default_pool,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        Ok(())
    })
}

/// CUmemPool_attribute from 1: three switches (ints), then sizes (64-bit): threshold, reserved, its
/// highest, used, its highest.
#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAttribute(handle: usize, code: u32, value: *mut u64) -> u32 {
    call("cuMemPoolGetAttribute", || {
        let driver = driver()?;
        let pool = driver.pools.get(handle)?;
        let settings = *lock(&pool.settings);
        let long = Out::from_pointer(value);
        match code {
            1..=3 => Out::from_pointer(value.cast::<i32>()).put(settings[code as usize - 1] as i32),
            4 => long.put(settings[3]),
            5 | 7 => long.put(pool.used(driver, handle)),
            6 | 8 => long.put(*lock(&pool.used_high)),
            _ => Err(Error::InvalidValue),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAttribute(handle: usize, code: u32, value: *mut u64) -> u32 {
    call("cuMemPoolSetAttribute", || {
        let driver = driver()?;
        let pool = driver.pools.get(handle)?;
        let long = Out::from_pointer(value);
        match code {
            1..=3 => {
                let value = Out::from_pointer(value.cast::<i32>()).get()?;
                lock(&pool.settings)[code as usize - 1] = u64::from(value != 0);
            }
            4 => lock(&pool.settings)[3] = long.get()?,
            // The highest so far can only be set back to 0.
            6 | 8 if long.get()? == 0 => *lock(&pool.used_high) = pool.used(driver, handle),
            _ => return Err(Error::InvalidValue),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolTrimTo(pool: usize, _keep: usize) -> u32 {
    call("cuMemPoolTrimTo", || driver()?.pools.get(pool).map(drop))
}

/// The one device always has access.
#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAccess(pool: usize, _map: Host, _count: usize) -> u32 {
    call("cuMemPoolSetAccess", || driver()?.pools.get(pool).map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolGetAccess(flags: Out<u32>, pool: usize, location: In<Location>) -> u32 {
    call("cuMemPoolGetAccess", || {
        driver()?.pools.get(pool)?;
        check_device(location.get()?.id)?;
        // CU_MEM_ACCESS_FLAGS_PROT_READWRITE.
        flags.put(3)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetDefaultMemPool(out: Out<usize>, device: i32) -> u32 {
    call("cuDeviceGetDefaultMemPool", || {
        check_device(device)?;
        out.put(driver()?.default_pool)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(out: Out<usize>, device: i32) -> u32 {
    call("cuDeviceGetMemPool", || {
        check_device(device)?;
        out.put(driver()?.current_pool.load(Ordering::Relaxed))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceSetMemPool(device: i32, pool: usize) -> u32 {
    call("cuDeviceSetMemPool", || {
        check_device(device)?;
        let driver = driver()?;
        driver.pools.get(pool)?;
        driver.current_pool.store(pool, Ordering::Relaxed);
        Ok(())
    })
}
