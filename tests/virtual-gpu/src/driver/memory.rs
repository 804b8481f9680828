//! Device memory: allocate, free, and what is left.

use super::abi::{Out, call, tell};
use super::allocation::{Origin, release};
use super::error::{Error, Result};
use super::state::{Driver, current, working};
use crate::memory::MemoryError;

/// Rows of cuMemAllocPitch begin at multiples of so many bytes.
const PITCH: usize = 512;

/// A refusal of the device's memory: told on stderr, since the code says little.
pub fn refused(what: &str, wrong: &MemoryError) -> Error {
    if matches!(wrong, MemoryError::OutOfMemory { .. }) {
        return Error::OutOfMemory;
    }
    tell(what, &wrong.to_string());
    Error::InvalidValue
}

/// Device memory for a context.
///
/// # Errors
/// `InvalidValue` for 0 bytes, `OutOfMemory`.
pub fn allocate(driver: &Driver, context: usize, bytes: usize, origin: Origin) -> Result<u64> {
    if bytes == 0 {
        return Err(Error::InvalidValue);
    }
    let address =
        driver.gpu.memory().alloc(bytes as u64).map_err(|wrong| refused("cuMemAlloc", &wrong))?;
    driver.allocations.insert(address, bytes as u64, context, origin);
    Ok(address)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) -> u32 {
    call("cuMemAlloc_v2", || {
        let (driver, context) = working()?;
        out.check()?;
        driver.captures.refuse_unsafe_call()?;
        out.put(allocate(driver, context.handle, bytes, Origin::Device)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocPitch_v2(
    out: Out<u64>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
    element: u32,
) -> u32 {
    call("cuMemAllocPitch_v2", || {
        let (driver, context) = working()?;
        out.check()?;
        pitch.check()?;
        driver.captures.refuse_unsafe_call()?;
        if ![4, 8, 16].contains(&element) || width == 0 || height == 0 {
            return Err(Error::InvalidValue);
        }
        let row = width.checked_next_multiple_of(PITCH).ok_or(Error::OutOfMemory)?;
        let bytes = row.checked_mul(height).ok_or(Error::OutOfMemory)?;
        out.put(allocate(driver, context.handle, bytes, Origin::Device)?)?;
        pitch.put(row)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: u64) -> u32 {
    call("cuMemFree_v2", || {
        // Also in a context that a kernel's fault has ended: the memory is given back, then the fault told.
        let (driver, context) = current()?;
        driver.captures.refuse_unsafe_call()?;
        if address != 0 {
            let allocation = driver
                .allocations
                .remove(address, Error::InvalidValue, |allocation| {
                    matches!(allocation.origin, Origin::Device | Origin::Pool(_) | Origin::Managed)
                })
                .inspect_err(|_| {
                    let why = format!("{address:#x} is not the start of an allocation");
                    tell("cuMemFree_v2", &why);
                })?;
            release(driver, allocation)?;
        }
        context.healthy()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> u32 {
    call("cuMemGetInfo_v2", || {
        let (driver, _) = working()?;
        let (left, all) = driver.gpu.memory().info();
        free.put(left as usize)?;
        total.put(all as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, address: u64) -> u32 {
    call("cuMemGetAddressRange_v2", || {
        let (driver, _) = current()?;
        let found = driver.allocations.at(address, |found| (found.base, found.bytes));
        // Variables of modules are ranges of their own.
        let (from, len) =
            found.or_else(|| driver.gpu.memory().range_of(address)).ok_or(Error::NotFound)?;
        base.put_if_wanted(from);
        bytes.put_if_wanted(len as usize);
        Ok(())
    })
}
