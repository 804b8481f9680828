//! Stream capture as programs call it.

use std::cell::RefCell;

use super::abi::{In, Out, call};
use super::capture::{Mode, exchange_mode};
use super::error::{Error, Result};
use super::graph_build::{EdgeData, check_edges};
use super::stream::stream;

/// CUstreamCaptureStatus.
const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCapture_v2(on: usize, mode: u32) -> u32 {
    call("cuStreamBeginCapture_v2", || {
        let place = stream(on)?;
        place.context.healthy()?;
        place.driver.captures.begin(&place, Mode::of(mode)?, None)
    })
}

/// The first version had the global mode alone.
#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture(on: usize) -> u32 {
    cuStreamBeginCapture_v2(on, 0)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamBeginCaptureToGraph(
    on: usize,
    graph: usize,
    after: In<usize>,
    data: In<EdgeData>,
    count: usize,
    mode: u32,
) -> u32 {
    call("cuStreamBeginCaptureToGraph", || {
        let place = stream(on)?;
        place.context.healthy()?;
        check_edges(data, count)?;
        let after = after.many(count)?;
        let into = place.driver.graphs.get(graph)?;
        if !after.iter().all(|node| into.has(*node)) {
            return Err(Error::InvalidValue);
        }
        place.driver.captures.begin(&place, Mode::of(mode)?, Some((graph, after)))
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamEndCapture(on: usize, graph: Out<usize>) -> u32 {
    call("cuStreamEndCapture", || {
        let place = stream(on)?;
        graph.check()?;
        let ended = place.driver.captures.end(&place);
        graph.put(*ended.as_ref().unwrap_or(&0))?;
        ended.map(drop)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamIsCapturing(on: usize, status: Out<u32>) -> u32 {
    call("cuStreamIsCapturing", || {
        let place = stream(on)?;
        if place.is_legacy() {
            // The legacy stream cannot be captured; that it is asked for beside a capture is an error.
            place.driver.captures.refuse_wait(&place)?;
        }
        status.put(match place.driver.captures.of(&place) {
            None => NONE,
            Some(capturing) if capturing.capture.is_broken() => INVALIDATED,
            Some(_) => ACTIVE,
        })
    })
}

thread_local! {
    /// What cuStreamGetCaptureInfo points to: good until the thread asks again.
    static AFTER: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Where the answers go; all but the status may be unwanted.
struct Info {
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<usize>,
    after: Out<*const usize>,
    count: Out<usize>,
}

fn info(on: usize, out: Info) -> Result {
    let place = stream(on)?;
    let Some(capturing) = place.driver.captures.of(&place) else {
        return out.status.put(NONE);
    };
    if capturing.capture.is_broken() {
        return out.status.put(INVALIDATED);
    }
    out.status.put(ACTIVE)?;
    out.id.put_if_wanted(capturing.capture.number);
    out.graph.put_if_wanted(capturing.capture.graph_handle);
    out.count.put_if_wanted(capturing.after.len());
    AFTER.with_borrow_mut(|kept| {
        *kept = capturing.after;
        out.after.put_if_wanted(kept.as_ptr());
    });
    Ok(())
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCaptureInfo(on: usize, status: Out<u32>, id: Out<u64>) -> u32 {
    call("cuStreamGetCaptureInfo", || {
        let (graph, after, count) = (Out::null(), Out::null(), Out::null());
        info(on, Info { status, id, graph, after, count })
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCaptureInfo_v2(
    on: usize,
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<usize>,
    after: Out<*const usize>,
    count: Out<usize>,
) -> u32 {
    call("cuStreamGetCaptureInfo_v2", || info(on, Info { status, id, graph, after, count }))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamGetCaptureInfo_v3(
    on: usize,
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<usize>,
    after: Out<*const usize>,
    data: Out<*const EdgeData>,
    count: Out<usize>,
) -> u32 {
    call("cuStreamGetCaptureInfo_v3", || {
        // Null says that all edges are plain.
        data.put_if_wanted(std::ptr::null());
        info(on, Info { status, id, graph, after, count })
    })
}

fn update(on: usize, nodes: In<usize>, count: usize, flags: u32) -> Result {
    let place = stream(on)?;
    // CU_STREAM_ADD_CAPTURE_DEPENDENCIES and _SET_.
    if flags > 1 {
        return Err(Error::InvalidValue);
    }
    place.driver.captures.set_after(&place, nodes.many(count)?, flags == 1)
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamUpdateCaptureDependencies(
    on: usize,
    nodes: In<usize>,
    count: usize,
    flags: u32,
) -> u32 {
    call("cuStreamUpdateCaptureDependencies", || update(on, nodes, count, flags))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuStreamUpdateCaptureDependencies_v2(
    on: usize,
    nodes: In<usize>,
    data: In<EdgeData>,
    count: usize,
    flags: u32,
) -> u32 {
    call("cuStreamUpdateCaptureDependencies_v2", || {
        check_edges(data, count)?;
        update(on, nodes, count, flags)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) -> u32 {
    call("cuThreadExchangeStreamCaptureMode", || {
        let wanted = Mode::of(mode.get()?)?;
        mode.put(exchange_mode(wanted) as u32)
    })
}
