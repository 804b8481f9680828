//! Streams: handles that work is submitted to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::abi::{Host, HostFn, Out, StreamCallback, call};
use super::context::GREATEST_PRIORITY;
use super::error::{Error, Result};
use super::state::{Context, Driver, current, driver, thread_number, working};
use super::work::{Work, submit};

/// CU_STREAM_NON_BLOCKING: it does not wait for the legacy stream, nor that for it.
const NON_BLOCKING: u32 = 1;
/// CU_STREAM_LEGACY, which the handle 0 also means.
pub const LEGACY: usize = 1;
/// CU_STREAM_PER_THREAD: each thread of the host has its own.
pub const PER_THREAD: usize = 2;

pub struct Stream {
    pub context: usize,
    pub flags: u32,
    pub priority: i32,
    pub id: u64,
}

/// A stream as a call names it: the three that are always there, and those that were made.
pub struct Place {
    pub driver: &'static Driver,
    pub context: Arc<Context>,
    /// Tells streams apart: those of threads too.
    pub key: usize,
    pub flags: u32,
    pub priority: i32,
    pub id: u64,
}

impl Place {
    pub fn is_legacy(&self) -> bool {
        self.key == LEGACY
    }

    /// Whether it waits for the legacy stream.
    pub fn is_blocking(&self) -> bool {
        self.flags & NON_BLOCKING == 0
    }
}

/// The stream of a handle.
///
/// # Errors
/// `InvalidHandle` for one that was never made or is destroyed; `InvalidContext` without a context.
pub fn stream(handle: usize) -> Result<Place> {
    let always = |key, id| {
        let (driver, context) = current()?;
        Ok(Place { driver, context, key, flags: 0, priority: 0, id })
    };
    match handle {
        0 | LEGACY => always(LEGACY, 1),
        PER_THREAD => {
            let thread = thread_number();
            always(PER_THREAD | (thread << 4), 2 + thread as u64)
        }
        _ => {
            let driver = driver()?;
            let stream = driver.streams.get(handle)?;
            let context =
                driver.contexts.get(stream.context).map_err(|_| Error::ContextIsDestroyed)?;
            let Stream { flags, priority, id, .. } = *stream;
            Ok(Place { driver, context, key: handle, flags, priority, id })
        }
    }
}

fn create(out: Out<usize>, flags: u32, priority: i32) -> Result {
    let (driver, context) = working()?;
    out.check()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Error::InvalidValue);
    }
    // Beyond the range, priorities are brought into it.
    let priority = priority.clamp(GREATEST_PRIORITY, 0);
    static LAST: AtomicU64 = AtomicU64::new(1 << 32);
    let id = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let stream = Stream { context: context.handle, flags, priority, id };
    out.put(driver.streams.insert(stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(out: Out<usize>, flags: u32) -> u32 {
    call("cuStreamCreate", || create(out, flags, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(out: Out<usize>, flags: u32, priority: i32) -> u32 {
    call("cuStreamCreateWithPriority", || create(out, flags, priority))
}

fn destroy(handle: usize) -> Result {
    let driver = driver()?;
    driver.streams.remove(handle)?;
    driver.captures.stream_is_gone(handle);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(handle: usize) -> u32 {
    call("cuStreamDestroy_v2", || destroy(handle))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy(handle: usize) -> u32 {
    call("cuStreamDestroy", || destroy(handle))
}

/// All work is done already: what is left to tell is a kernel's fault.
fn finished(handle: usize) -> Result {
    let place = stream(handle)?;
    place.driver.captures.refuse_wait(&place)?;
    place.context.healthy()
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamSynchronize(handle: usize) -> u32 {
    call("cuStreamSynchronize", || finished(handle))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamQuery(handle: usize) -> u32 {
    call("cuStreamQuery", || finished(handle))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamWaitEvent(handle: usize, event: usize, flags: u32) -> u32 {
    call("cuStreamWaitEvent", || {
        let place = stream(handle)?;
        // CU_EVENT_WAIT_EXTERNAL: a node of its own in a graph.
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        let waited = place.driver.events.get(event)?;
        if flags == 1 {
            return match place.driver.captures.keep(&place, Work::Wait(event))? {
                Some(_) => Err(Error::InvalidValue),
                None => Ok(()),
            };
        }
        place.context.healthy()?;
        place.driver.captures.wait(&place, &waited)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuLaunchHostFunc(handle: usize, function: HostFn, data: Host) -> u32 {
    call("cuLaunchHostFunc", || {
        function.ok_or(Error::InvalidValue)?;
        submit(&stream(handle)?, Work::Host(function, data))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamAddCallback(
    handle: usize,
    callback: StreamCallback,
    data: Host,
    flags: u32,
) -> u32 {
    call("cuStreamAddCallback", || {
        let place = stream(handle)?;
        if flags != 0 || callback.is_none() {
            return Err(Error::InvalidValue);
        }
        place.driver.captures.refuse_in_capture(&place)?;
        submit(&place, Work::Callback(callback, handle, data))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetPriority(handle: usize, priority: Out<i32>) -> u32 {
    call("cuStreamGetPriority", || priority.put(stream(handle)?.priority))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetFlags(handle: usize, flags: Out<u32>) -> u32 {
    call("cuStreamGetFlags", || flags.put(stream(handle)?.flags))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetId(handle: usize, id: Out<u64>) -> u32 {
    call("cuStreamGetId", || id.put(stream(handle)?.id))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetDevice(handle: usize, device: Out<i32>) -> u32 {
    call("cuStreamGetDevice", || {
        stream(handle)?;
        device.put(0)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCtx(handle: usize, context: Out<usize>) -> u32 {
    call("cuStreamGetCtx", || context.put(stream(handle)?.context.handle))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCtx_v2(
    handle: usize,
    context: Out<usize>,
    green: Out<usize>,
) -> u32 {
    call("cuStreamGetCtx_v2", || {
        context.put(stream(handle)?.context.handle)?;
        green.put_if_wanted(0);
        Ok(())
    })
}
