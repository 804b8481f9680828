//! Contexts: the primary one, others, and which of them is current for a thread.

use std::sync::atomic::Ordering;

use super::abi::{Host, In, Out, call};
use super::device::check_device;
use super::error::{Error, Result};
use super::handle::lock;
use super::state::{Context, Driver, current, driver, with_stack, working};

/// Limits that cuCtxSetLimit knows: 0 to 7.
pub const LIMITS: usize = 8;

/// Stack, printf buffer, heap, two of the device runtime, L2 fetch, persisting L2, shmem: in bytes or
/// pieces, what a driver says at first.
pub fn default_limits() -> [usize; LIMITS] {
    [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0, 0]
}

/// CU_CTX_FLAGS_MASK.
const FLAGS: u32 = 0xff;

fn create(out: Out<usize>, flags: u32, device: i32) -> Result {
    let driver = driver()?;
    check_device(device)?;
    out.check()?;
    if flags & !FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    let handle = driver.contexts.reserve();
    driver.contexts.insert_at(handle, Context::new(handle, false, flags));
    with_stack(|stack| stack.push(handle));
    out.put(handle)
}

fn destroy(handle: usize) -> Result {
    let driver = driver()?;
    let context = driver.contexts.get(handle).map_err(|_| Error::InvalidContext)?;
    if context.primary {
        return Err(Error::InvalidContext);
    }
    driver.clear(handle);
    driver.contexts.remove(handle)?;
    // It goes from this thread's stack; elsewhere it stays as a destroyed one.
    with_stack(|stack| {
        if stack.last() == Some(&handle) {
            stack.pop();
        }
    });
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: Out<usize>, flags: u32, device: i32) -> u32 {
    call("cuCtxCreate_v2", || create(context, flags, device))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v3(
    context: Out<usize>,
    affinity: In<[u64; 1]>,
    count: i32,
    flags: u32,
    device: i32,
) -> u32 {
    call("cuCtxCreate_v3", || {
        if count != 0 || !affinity.is_null() {
            return Err(Error::NotSupported);
        }
        create(context, flags, device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v4(
    context: Out<usize>,
    parameters: Host,
    flags: u32,
    device: i32,
) -> u32 {
    call("cuCtxCreate_v4", || {
        if !parameters.is_null() {
            return Err(Error::NotSupported);
        }
        create(context, flags, device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: usize) -> u32 {
    call("cuCtxDestroy_v2", || destroy(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy(context: usize) -> u32 {
    call("cuCtxDestroy", || destroy(context))
}

fn push(handle: usize) -> Result {
    driver()?.contexts.get(handle).map_err(|_| Error::InvalidContext)?;
    with_stack(|stack| stack.push(handle));
    Ok(())
}

fn pop(out: Out<usize>) -> Result {
    driver()?;
    let handle = with_stack(Vec::pop).ok_or(Error::InvalidContext)?;
    out.put_if_wanted(handle);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: usize) -> u32 {
    call("cuCtxPushCurrent_v2", || push(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent(context: usize) -> u32 {
    call("cuCtxPushCurrent", || push(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: Out<usize>) -> u32 {
    call("cuCtxPopCurrent_v2", || pop(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent(context: Out<usize>) -> u32 {
    call("cuCtxPopCurrent", || pop(context))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: usize) -> u32 {
    call("cuCtxSetCurrent", || {
        let driver = driver()?;
        if context != 0 {
            driver.contexts.get(context).map_err(|_| Error::InvalidContext)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<usize>) -> u32 {
    call("cuCtxGetCurrent", || {
        driver()?;
        context.put(with_stack(|stack| stack.last().copied().unwrap_or(0)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<i32>) -> u32 {
    call("cuCtxGetDevice", || {
        current()?;
        device.put(0)
    })
}

/// A context by its handle, 0 for the current one.
fn of(context: usize) -> Result<(&'static Driver, std::sync::Arc<Context>)> {
    if context == 0 {
        return current();
    }
    let driver = driver()?;
    Ok((driver, driver.contexts.get(context).map_err(|_| Error::InvalidContext)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetFlags(flags: Out<u32>) -> u32 {
    call("cuCtxGetFlags", || flags.put(current()?.1.flags.load(Ordering::Relaxed)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(flags: u32) -> u32 {
    call("cuCtxSetFlags", || {
        if flags & !FLAGS != 0 {
            return Err(Error::InvalidValue);
        }
        current()?.1.flags.store(flags, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetId(context: usize, id: Out<u64>) -> u32 {
    call("cuCtxGetId", || id.put(of(context)?.1.handle as u64))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetApiVersion(context: usize, version: Out<u32>) -> u32 {
    call("cuCtxGetApiVersion", || {
        of(context)?;
        version.put(3020)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> u32 {
    call("cuCtxSynchronize", || {
        let (driver, context) = working()?;
        driver.captures.refuse_unsafe_call()?;
        driver.captures.refuse_wait_for_context(context.handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetLimit(limit: u32, value: usize) -> u32 {
    call("cuCtxSetLimit", || {
        let (_, context) = current()?;
        let mut limits = lock(&context.limits);
        *limits.get_mut(limit as usize).ok_or(Error::UnsupportedLimit)? = value;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetLimit(value: Out<usize>, limit: u32) -> u32 {
    call("cuCtxGetLimit", || {
        let (_, context) = current()?;
        let limit = *lock(&context.limits).get(limit as usize).ok_or(Error::UnsupportedLimit)?;
        value.put(limit)
    })
}

/// Preferences between L1 and shared memory: kept and told, without effect, as on every GPU since Volta.
#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCacheConfig(config: Out<u32>) -> u32 {
    call("cuCtxGetCacheConfig", || config.put(current()?.1.cache_config.load(Ordering::Relaxed)))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCacheConfig(config: u32) -> u32 {
    call("cuCtxSetCacheConfig", || {
        if config > 3 {
            return Err(Error::InvalidValue);
        }
        current()?.1.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetSharedMemConfig(config: Out<u32>) -> u32 {
    call("cuCtxGetSharedMemConfig", || {
        config.put(current()?.1.shared_config.load(Ordering::Relaxed))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetSharedMemConfig(config: u32) -> u32 {
    call("cuCtxSetSharedMemConfig", || {
        if config > 2 {
            return Err(Error::InvalidValue);
        }
        current()?.1.shared_config.store(config, Ordering::Relaxed);
        Ok(())
    })
}

/// Priorities from 0 (least) to -5 (greatest), as on the cards that are claimed.
pub const GREATEST_PRIORITY: i32 = -5;

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) -> u32 {
    call("cuCtxGetStreamPriorityRange", || {
        current()?;
        least.put_if_wanted(0);
        greatest.put_if_wanted(GREATEST_PRIORITY);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxResetPersistingL2Cache() -> u32 {
    call("cuCtxResetPersistingL2Cache", || current().map(drop))
}

/// There is one device, so no peer to reach.
#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(_peer: usize, _flags: u32) -> u32 {
    call("cuCtxEnablePeerAccess", || Err(Error::InvalidDevice))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDisablePeerAccess(_peer: usize) -> u32 {
    call("cuCtxDisablePeerAccess", || Err(Error::InvalidContext))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<usize>, device: i32) -> u32 {
    call("cuDevicePrimaryCtxRetain", || {
        let driver = driver()?;
        check_device(device)?;
        context.check()?;
        let mut primary = lock(&driver.primary);
        let handle = match primary.handle {
            Some(handle) => handle,
            None => {
                let handle = driver.contexts.reserve();
                driver.contexts.insert_at(handle, Context::new(handle, true, primary.flags));
                primary.handle = Some(handle);
                handle
            }
        };
        primary.retained += 1;
        context.put(handle)
    })
}

fn release(device: i32) -> Result {
    let driver = driver()?;
    check_device(device)?;
    let mut primary = lock(&driver.primary);
    let handle = primary.handle.ok_or(Error::InvalidContext)?;
    primary.retained -= 1;
    if primary.retained == 0 {
        primary.handle = None;
        driver.clear(handle);
        driver.contexts.remove(handle)?;
    }
    Ok(())
}

/// The context's handle stays good, so that who retained it can go on; all in it is gone.
fn reset(device: i32) -> Result {
    let driver = driver()?;
    check_device(device)?;
    let handle = lock(&driver.primary).handle;
    if let Some(handle) = handle {
        driver.clear(handle);
        driver.contexts.get(handle)?.mend();
    }
    Ok(())
}

fn set_flags(device: i32, flags: u32) -> Result {
    let driver = driver()?;
    check_device(device)?;
    if flags & !FLAGS != 0 {
        return Err(Error::InvalidValue);
    }
    let mut primary = lock(&driver.primary);
    primary.flags = flags;
    if let Some(handle) = primary.handle {
        driver.contexts.get(handle)?.flags.store(flags, Ordering::Relaxed);
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: i32) -> u32 {
    call("cuDevicePrimaryCtxRelease_v2", || release(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease(device: i32) -> u32 {
    call("cuDevicePrimaryCtxRelease", || release(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: i32) -> u32 {
    call("cuDevicePrimaryCtxReset_v2", || reset(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset(device: i32) -> u32 {
    call("cuDevicePrimaryCtxReset", || reset(device))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) -> u32 {
    call("cuDevicePrimaryCtxSetFlags_v2", || set_flags(device, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxSetFlags(device: i32, flags: u32) -> u32 {
    call("cuDevicePrimaryCtxSetFlags", || set_flags(device, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) -> u32 {
    call("cuDevicePrimaryCtxGetState", || {
        let driver = driver()?;
        check_device(device)?;
        let primary = lock(&driver.primary);
        flags.put(primary.flags)?;
        active.put(i32::from(primary.handle.is_some()))
    })
}
