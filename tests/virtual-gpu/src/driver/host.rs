//! Host memory that the device reaches: pinned, registered, managed.
//!
//! Its device address is its host address, so a kernel and the program see the same bytes at once.

use super::abi::{Host, Out, call};
use super::allocation::{Origin, release};
use super::error::{Error, Result};
use super::memory::refused;
use super::state::{Driver, current, driver, working};

/// CU_MEMHOSTALLOC_PORTABLE | DEVICEMAP | WRITECOMBINED.
const ALLOC_FLAGS: u32 = 7;
/// CU_MEMHOSTREGISTER_PORTABLE | DEVICEMAP | IOMEMORY | READ_ONLY.
const REGISTER_FLAGS: u32 = 15;
const IO_MEMORY: u32 = 4;

/// Host memory that the device sees at the same address.
fn on_host(driver: &Driver, context: usize, bytes: usize, origin: Origin) -> Result<u64> {
    let memory = driver.gpu.memory();
    let base = memory.alloc_host(bytes as u64).map_err(|wrong| refused("host memory", &wrong))?;
    driver.allocations.insert(base, bytes as u64, context, origin);
    Ok(base)
}

fn pinned(out: Out<Host>, bytes: usize, flags: u32) -> Result {
    let (driver, context) = working()?;
    out.check()?;
    driver.captures.refuse_unsafe_call()?;
    if bytes == 0 || flags & !ALLOC_FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    out.put(Host::at(on_host(driver, context.handle, bytes, Origin::Pinned(flags))?))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(out: Out<Host>, bytes: usize, flags: u32) -> u32 {
    call("cuMemHostAlloc", || pinned(out, bytes, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(out: Out<Host>, bytes: usize) -> u32 {
    call("cuMemAllocHost_v2", || pinned(out, bytes, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(address: Host) -> u32 {
    call("cuMemFreeHost", || {
        let driver = driver()?;
        driver.captures.refuse_unsafe_call()?;
        if address.is_null() {
            return Ok(());
        }
        let pinned =
            driver.allocations.remove(address.address(), Error::InvalidValue, |found| {
                matches!(found.origin, Origin::Pinned(..))
            })?;
        release(driver, pinned)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(address: Host, bytes: usize, flags: u32) -> u32 {
    call("cuMemHostRegister_v2", || {
        let (driver, context) = working()?;
        driver.captures.refuse_unsafe_call()?;
        if address.is_null() || bytes == 0 || flags & !REGISTER_FLAGS != 0 {
            return Err(Error::InvalidValue);
        }
        if flags & IO_MEMORY != 0 {
            return Err(Error::NotSupported);
        }
        let base = address.address();
        let last = base + (bytes as u64 - 1);
        let taken = |at| driver.allocations.at(at, |_| ()).is_some();
        if taken(base) || taken(last) {
            return Err(Error::HostMemoryAlreadyRegistered);
        }
        let host = std::ptr::with_exposed_provenance_mut(base as usize);
        // SAFETY: C's contract is that the memory stays until it is unregistered.
        unsafe { driver.gpu.memory().register_host(host, bytes as u64) }
            .map_err(|wrong| refused("cuMemHostRegister", &wrong))?;
        driver.allocations.insert(base, bytes as u64, context.handle, Origin::Registered(flags));
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(address: Host) -> u32 {
    call("cuMemHostUnregister", || {
        let driver = driver()?;
        driver.captures.refuse_unsafe_call()?;
        let registered = driver.allocations.remove(
            address.address(),
            Error::HostMemoryNotRegistered,
            |found| matches!(found.origin, Origin::Registered(_)),
        )?;
        release(driver, registered)
    })
}

/// The flags of pinned or registered memory that an address is in.
fn flags_of(driver: &Driver, address: Host) -> Result<u32> {
    driver
        .allocations
        .at(address.address(), |found| match found.origin {
            Origin::Pinned(flags) | Origin::Registered(flags) => Some(flags),
            _ => None,
        })
        .flatten()
        .ok_or(Error::InvalidValue)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(out: Out<u64>, address: Host, flags: u32) -> u32 {
    call("cuMemHostGetDevicePointer_v2", || {
        let (driver, _) = current()?;
        if flags != 0 {
            return Err(Error::InvalidValue);
        }
        flags_of(driver, address)?;
        out.put(address.address())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetFlags(flags: Out<u32>, address: Host) -> u32 {
    call("cuMemHostGetFlags", || {
        let (driver, _) = current()?;
        // Under unified addressing all pinned memory is mapped: CU_MEMHOSTALLOC_DEVICEMAP.
        flags.put(flags_of(driver, address)? | 2)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocManaged(out: Out<u64>, bytes: usize, flags: u32) -> u32 {
    call("cuMemAllocManaged", || {
        let (driver, context) = working()?;
        out.check()?;
        driver.captures.refuse_unsafe_call()?;
        // CU_MEM_ATTACH_GLOBAL or HOST.
        if bytes == 0 || !(flags == 1 || flags == 2) {
            return Err(Error::InvalidValue);
        }
        out.put(on_host(driver, context.handle, bytes, Origin::Managed)?)
    })
}

/// Managed memory is where both sides reach it at once: nothing moves, whatever is advised.
fn check_range(address: u64, bytes: usize) -> Result {
    let (driver, _) = working()?;
    let fits = driver
        .allocations
        .at(address, |found| {
            matches!(found.origin, Origin::Managed)
                && bytes as u64 <= found.bytes - (address - found.base)
        })
        .unwrap_or(false);
    if fits && bytes > 0 { Ok(()) } else { Err(Error::InvalidValue) }
}

/// CUmemLocation.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync(
    address: u64,
    bytes: usize,
    _device: i32,
    _stream: usize,
) -> u32 {
    call("cuMemPrefetchAsync", || check_range(address, bytes))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemPrefetchAsync_v2(
    address: u64,
    bytes: usize,
    _location: Location,
    _flags: u32,
    _stream: usize,
) -> u32 {
    call("cuMemPrefetchAsync_v2", || check_range(address, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAdvise(address: u64, bytes: usize, _advice: u32, _device: i32) -> u32 {
    call("cuMemAdvise", || check_range(address, bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAdvise_v2(address: u64, bytes: usize, _advice: u32, _location: Location) -> u32 {
    call("cuMemAdvise_v2", || check_range(address, bytes))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamAttachMemAsync(
    stream: usize,
    address: u64,
    bytes: usize,
    _flags: u32,
) -> u32 {
    call("cuStreamAttachMemAsync", || {
        super::stream::stream(stream)?;
        check_range(address, bytes.max(1))
    })
}
