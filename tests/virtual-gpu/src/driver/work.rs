//! What streams do: pieces of work, done at the call that submits them or kept in a graph.
//!
//! Every stream's work is done in the order of the calls, on the thread that calls. That is one of the
//! orders that streams and events allow, whatever the program says of them, so there is nothing to wait
//! for later.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::abi::{Host, HostFn, StreamCallback, run_callback, run_host};
use super::copy::Copy;
use super::error::{Error, Result};
use super::launch::Launch;
use super::set::Fill;
use super::state::{Context, Driver};
use super::stream::Place;

/// One piece.
#[derive(Clone)]
pub enum Work {
    Launch(Launch),
    Copy(Copy),
    Fill(Fill),
    Host(HostFn, Host),
    /// With the stream's handle.
    Callback(StreamCallback, usize, Host),
    /// An event by its handle.
    Record(usize),
    Wait(usize),
    /// A graph of its own inside a graph, by its handle.
    Child(usize),
    /// Memory of a graph: it is there for as long as the graph is.
    Allocate(u64),
    Free(u64),
    Empty,
}

/// Does it, or keeps it if the stream is being captured.
///
/// # Errors
/// Those of the work, of the capture, and the context's fault.
pub fn submit(place: &Place, work: Work) -> Result {
    place.context.healthy()?;
    match place.driver.captures.keep(place, work)? {
        Some(work) => perform(place.driver, &place.context, &work),
        None => Ok(()),
    }
}

/// Does it for a call that waits for its end, on the legacy stream.
///
/// # Errors
/// Those of the work; `StreamCaptureImplicit` and its like where a capture forbids such calls.
pub fn submit_and_wait(work: Work) -> Result {
    let place = super::stream::stream(0)?;
    place.driver.captures.refuse_unsafe_call()?;
    submit(&place, work)
}

/// Does one piece now.
///
/// # Errors
/// Those of the work. A kernel's fault is kept in the context and told by the calls after this one.
pub fn perform(driver: &'static Driver, context: &Arc<Context>, work: &Work) -> Result {
    match work {
        Work::Launch(launch) => launch.run(driver, context),
        Work::Copy(copy) => copy.run(driver),
        Work::Fill(fill) => fill.run(driver),
        Work::Host(function, data) => run_host(*function, *data),
        Work::Callback(function, stream, data) => run_callback(*function, *stream, *data),
        Work::Record(event) => {
            driver.events.get(*event)?.record(driver.clock.load(Ordering::Relaxed));
            Ok(())
        }
        // All that was recorded is done.
        Work::Wait(event) => driver.events.get(*event).map(drop),
        Work::Allocate(_) | Work::Free(_) | Work::Empty => Ok(()),
        // Graphs are made flat when they are instantiated.
        Work::Child(_) => Err(Error::InvalidValue),
    }
}
