//! Events: marks in a stream, and the time between two.
//!
//! Time is modelled, and so is the same on every machine: a cycle of the claimed card's clock for each
//! warp instruction of the launches between the marks. Copies, fills and the host's own time take none.
//! It says which of two kernels does more, not how long a real card takes.

use std::sync::Mutex;

use super::abi::{Out, call};
use super::error::{Error, Result};
use super::handle::lock;
use super::state::{driver, working};
use super::stream::stream;
use super::work::{Work, submit};

/// CU_EVENT_DISABLE_TIMING.
const NO_TIMING: u32 = 2;
/// CU_EVENT_INTERPROCESS.
const INTERPROCESS: u32 = 4;

pub struct Event {
    pub context: usize,
    flags: u32,
    mark: Mutex<Mark>,
}

/// Where it was last recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Mark {
    Never,
    /// At this many modelled cycles.
    At(u64),
    /// In a capture by its number, after these nodes.
    Captured {
        capture: u64,
        nodes: Vec<usize>,
    },
}

impl Event {
    pub fn record(&self, cycles: u64) {
        *lock(&self.mark) = Mark::At(cycles);
    }

    pub fn capture(&self, capture: u64, nodes: Vec<usize>) {
        *lock(&self.mark) = Mark::Captured { capture, nodes };
    }

    pub fn mark(&self) -> Mark {
        lock(&self.mark).clone()
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(out: Out<usize>, flags: u32) -> u32 {
    call("cuEventCreate", || {
        let (driver, context) = working()?;
        out.check()?;
        if flags > 7 || (flags & INTERPROCESS != 0 && flags & NO_TIMING == 0) {
            return Err(Error::InvalidValue);
        }
        if flags & INTERPROCESS != 0 {
            return Err(Error::NotSupported);
        }
        let event = Event { context: context.handle, flags, mark: Mutex::new(Mark::Never) };
        out.put(driver.events.insert(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: usize) -> u32 {
    call("cuEventDestroy_v2", || driver()?.events.remove(event).map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy(event: usize) -> u32 {
    call("cuEventDestroy", || driver()?.events.remove(event).map(drop))
}

fn record(handle: usize, on: usize, flags: u32) -> Result {
    let place = stream(on)?;
    let event = place.driver.events.get(handle)?;
    if event.context != place.context.handle {
        return Err(Error::InvalidHandle);
    }
    place.context.healthy()?;
    match flags {
        0 if place.driver.captures.mark(&place, &event)? => Ok(()),
        0 => submit(&place, Work::Record(handle)),
        // CU_EVENT_RECORD_EXTERNAL: a node of its own, so only in a capture.
        1 => match place.driver.captures.keep(&place, Work::Record(handle))? {
            Some(_) => Err(Error::InvalidValue),
            None => Ok(()),
        },
        _ => Err(Error::InvalidValue),
    }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecord(event: usize, stream: usize) -> u32 {
    call("cuEventRecord", || record(event, stream, 0))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuEventRecordWithFlags(event: usize, stream: usize, flags: u32) -> u32 {
    call("cuEventRecordWithFlags", || record(event, stream, flags))
}

/// What was recorded is done; an event that never was counts as done.
fn finished(handle: usize) -> Result {
    let driver = driver()?;
    let event = driver.events.get(handle)?;
    driver.captures.refuse_unsafe_call()?;
    if let Mark::Captured { capture, .. } = event.mark() {
        driver.captures.break_capture(capture);
        return Err(Error::CapturedEvent);
    }
    driver.contexts.get(event.context).map_err(|_| Error::ContextIsDestroyed)?.healthy()
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: usize) -> u32 {
    call("cuEventSynchronize", || finished(event))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: usize) -> u32 {
    call("cuEventQuery", || finished(event))
}

fn elapsed(out: Out<f32>, start: usize, end: usize) -> Result {
    let driver = driver()?;
    let (start, end) = (driver.events.get(start)?, driver.events.get(end)?);
    if (start.flags | end.flags) & NO_TIMING != 0 {
        return Err(Error::InvalidHandle);
    }
    driver.contexts.get(start.context).map_err(|_| Error::ContextIsDestroyed)?.healthy()?;
    match (start.mark(), end.mark()) {
        (Mark::At(start), Mark::At(end)) => {
            // kHz are cycles in a millisecond.
            let cycles = end.wrapping_sub(start) as i64;
            out.put((cycles as f64 / f64::from(driver.limits.clock)) as f32)
        }
        (Mark::Captured { .. }, _) | (_, Mark::Captured { .. }) => Err(Error::CapturedEvent),
        _ => Err(Error::InvalidHandle),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(out: Out<f32>, start: usize, end: usize) -> u32 {
    call("cuEventElapsedTime", || elapsed(out, start, end))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(out: Out<f32>, start: usize, end: usize) -> u32 {
    call("cuEventElapsedTime_v2", || elapsed(out, start, end))
}
