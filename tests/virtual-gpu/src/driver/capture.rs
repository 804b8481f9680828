//! Stream capture: what is submitted to a capturing stream becomes nodes of a graph.
//!
//! CUDA C++ Programming Guide, "Creating a Graph Using Stream Capture", with what is prohibited there:
//! each such call returns its error and ends the capture, whose end then returns `Invalidated`.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::error::{Error, Result};
use super::event::{Event, Mark};
use super::graph::Graph;
use super::handle::lock;
use super::state::{Driver, thread_number};
use super::stream::Place;
use super::work::Work;

/// CUstreamCaptureMode: which calls of which threads a capture forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    Global = 0,
    ThreadLocal = 1,
    Relaxed = 2,
}

impl Mode {
    pub fn of(code: u32) -> Result<Mode> {
        match code {
            0 => Ok(Mode::Global),
            1 => Ok(Mode::ThreadLocal),
            2 => Ok(Mode::Relaxed),
            _ => Err(Error::InvalidValue),
        }
    }
}

thread_local! {
    static THREAD_MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

/// cuThreadExchangeStreamCaptureMode.
pub fn exchange_mode(mode: Mode) -> Mode {
    THREAD_MODE.replace(mode)
}

/// One capture, from begin to end.
pub struct Capture {
    /// Never given twice.
    pub number: u64,
    mode: Mode,
    /// The stream that it began on.
    first: usize,
    thread: usize,
    context: usize,
    pub graph_handle: usize,
    graph: Arc<Graph>,
    /// The graph was there before (cuStreamBeginCaptureToGraph): it outlives a failure.
    borrowed: bool,
    broken: AtomicBool,
}

impl Capture {
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn fail(&self, error: Error) -> Error {
        self.broken.store(true, Ordering::Relaxed);
        error
    }
}

/// A stream in a capture: its next node comes after these.
#[derive(Clone)]
pub struct Capturing {
    pub capture: Arc<Capture>,
    pub after: Vec<usize>,
    blocking: bool,
}

/// All captures that are going on, by stream.
#[derive(Default)]
pub struct Captures {
    by_stream: Mutex<BTreeMap<usize, Capturing>>,
    last: AtomicU64,
}

impl Captures {
    /// # Errors
    /// `StreamCaptureUnsupported` on the legacy stream, `IllegalState` on one that captures already.
    pub fn begin(
        &self,
        place: &Place,
        mode: Mode,
        graph: Option<(usize, Vec<usize>)>,
    ) -> Result<()> {
        if place.is_legacy() {
            return Err(Error::StreamCaptureUnsupported);
        }
        let mut streams = lock(&self.by_stream);
        if streams.contains_key(&place.key) {
            return Err(Error::IllegalState);
        }
        let borrowed = graph.is_some();
        let (graph_handle, after) = match graph {
            Some(given) => given,
            None => (place.driver.graphs.insert(Graph::new(place.context.handle)), Vec::new()),
        };
        let capture = Capture {
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            mode,
            first: place.key,
            thread: thread_number(),
            context: place.context.handle,
            graph_handle,
            graph: place.driver.graphs.get(graph_handle)?,
            borrowed,
            broken: AtomicBool::new(false),
        };
        let capturing =
            Capturing { capture: Arc::new(capture), after, blocking: place.is_blocking() };
        streams.insert(place.key, capturing);
        Ok(())
    }

    /// Ends the capture that began on this stream, and gives the graph's handle.
    ///
    /// # Errors
    /// `IllegalState` without one, `StreamCaptureUnmatched`, `WrongThread`, `Unjoined`, `Invalidated`.
    pub fn end(&self, place: &Place) -> Result<usize> {
        let mut streams = lock(&self.by_stream);
        let Capturing { capture, after, .. } =
            streams.get(&place.key).cloned().ok_or(Error::IllegalState)?;
        if capture.first != place.key {
            return Err(capture.fail(Error::StreamCaptureUnmatched));
        }
        if capture.mode != Mode::Relaxed && capture.thread != thread_number() {
            return Err(Error::StreamCaptureWrongThread);
        }
        let before = capture.graph.before(&after);
        let joined = streams
            .values()
            .filter(|other| other.capture.number == capture.number)
            .all(|other| other.after.iter().all(|node| before.contains(node)));
        streams.retain(|_, other| other.capture.number != capture.number);
        drop(streams);
        let failure = match (capture.is_broken(), joined) {
            (true, _) => Some(Error::StreamCaptureInvalidated),
            (_, false) => Some(Error::StreamCaptureUnjoined),
            _ => None,
        };
        match failure {
            Some(error) => {
                if !capture.borrowed {
                    super::graph::destroy(place.driver, capture.graph_handle)?;
                }
                Err(error)
            }
            None => Ok(capture.graph_handle),
        }
    }

    /// What a stream is in, if it is capturing.
    pub fn of(&self, place: &Place) -> Option<Capturing> {
        lock(&self.by_stream).get(&place.key).cloned()
    }

    /// Keeps the work as a node if the stream is capturing, gives it back if not.
    ///
    /// # Errors
    /// `StreamCaptureInvalidated`; `StreamCaptureImplicit` for the legacy stream while a stream that waits
    /// for it is capturing.
    pub fn keep(&self, place: &Place, work: Work) -> Result<Option<Work>> {
        let mut streams = lock(&self.by_stream);
        if streams.is_empty() {
            return Ok(Some(work));
        }
        self.refuse_legacy(&streams, place)?;
        let Some(capturing) = streams.get_mut(&place.key) else { return Ok(Some(work)) };
        if capturing.capture.is_broken() {
            return Err(Error::StreamCaptureInvalidated);
        }
        let after = std::mem::take(&mut capturing.after);
        let node = capturing.capture.graph.add(
            place.driver,
            capturing.capture.graph_handle,
            work,
            after,
        )?;
        capturing.after = vec![node];
        Ok(None)
    }

    fn refuse_legacy(&self, streams: &BTreeMap<usize, Capturing>, place: &Place) -> Result {
        if !place.is_legacy() {
            return Ok(());
        }
        let waiting = streams.values().find(|capturing| {
            capturing.blocking && capturing.capture.context == place.context.handle
        });
        match waiting {
            Some(capturing) => Err(capturing.capture.fail(Error::StreamCaptureImplicit)),
            None => Ok(()),
        }
    }

    /// Marks an event in a capture; `false` if the stream is not capturing.
    ///
    /// # Errors
    /// As [`Captures::keep`].
    pub fn mark(&self, place: &Place, event: &Event) -> Result<bool> {
        let streams = lock(&self.by_stream);
        self.refuse_legacy(&streams, place)?;
        let Some(capturing) = streams.get(&place.key) else { return Ok(false) };
        if capturing.capture.is_broken() {
            return Err(Error::StreamCaptureInvalidated);
        }
        event.capture(capturing.capture.number, capturing.after.clone());
        Ok(true)
    }

    /// A stream waits for an event: in a capture that makes edges, and draws the stream into it.
    ///
    /// # Errors
    /// `CapturedEvent` for an event of a capture that has ended; `Implicit`, `Merge` and `Isolation` for
    /// edges that would lead to the legacy stream, to another capture, or out of this one.
    pub fn wait(&self, place: &Place, event: &Event) -> Result {
        let mut streams = lock(&self.by_stream);
        let mark = event.mark();
        let mine = streams.get(&place.key).cloned();
        if let Some(mine) = &mine
            && mine.capture.is_broken()
        {
            return Err(Error::StreamCaptureInvalidated);
        }
        let Mark::Captured { capture: number, nodes } = mark else {
            // The event's work is done. Inside a capture, an edge to what is outside is refused.
            return match mine {
                Some(mine) if mark != Mark::Never => {
                    Err(mine.capture.fail(Error::StreamCaptureIsolation))
                }
                _ => self.refuse_legacy(&streams, place),
            };
        };
        let its = streams.values().find(|other| other.capture.number == number);
        let capture = its.map(|other| other.capture.clone()).ok_or(Error::CapturedEvent)?;
        if place.is_legacy() {
            return Err(capture.fail(Error::StreamCaptureImplicit));
        }
        match mine {
            Some(mine) if mine.capture.number != number => {
                capture.fail(Error::StreamCaptureMerge);
                return Err(mine.capture.fail(Error::StreamCaptureMerge));
            }
            _ => {}
        }
        let capturing = streams.entry(place.key).or_insert_with(|| Capturing {
            capture,
            after: Vec::new(),
            blocking: place.is_blocking(),
        });
        for node in nodes {
            if !capturing.after.contains(&node) {
                capturing.after.push(node);
            }
        }
        Ok(())
    }

    /// cuStreamUpdateCaptureDependencies.
    ///
    /// # Errors
    /// `IllegalState` if the stream is not capturing, `InvalidValue` for nodes that are not of its graph.
    pub fn set_after(&self, place: &Place, nodes: Vec<usize>, replace: bool) -> Result {
        let mut streams = lock(&self.by_stream);
        let capturing = streams.get_mut(&place.key).ok_or(Error::IllegalState)?;
        if !nodes.iter().all(|node| capturing.capture.graph.has(*node)) {
            return Err(Error::InvalidValue);
        }
        if replace {
            capturing.after.clear();
        }
        for node in nodes {
            if !capturing.after.contains(&node) {
                capturing.after.push(node);
            }
        }
        Ok(())
    }

    /// For calls that might wait for, or allocate beside, what is being captured.
    ///
    /// # Errors
    /// `StreamCaptureUnsupported` if a capture of this thread, or a global one of any, forbids them.
    pub fn refuse_unsafe_call(&self) -> Result {
        let mode = THREAD_MODE.get();
        if mode == Mode::Relaxed {
            return Ok(());
        }
        let thread = thread_number();
        for capturing in lock(&self.by_stream).values() {
            let capture = &capturing.capture;
            let own = capture.thread == thread && capture.mode != Mode::Relaxed;
            if own || (mode == Mode::Global && capture.mode == Mode::Global) {
                return Err(capture.fail(Error::StreamCaptureUnsupported));
            }
        }
        Ok(())
    }

    /// For calls that a capturing stream does not take at all.
    ///
    /// # Errors
    /// `StreamCaptureUnsupported`.
    pub fn refuse_in_capture(&self, place: &Place) -> Result {
        match lock(&self.by_stream).get(&place.key) {
            Some(capturing) => Err(capturing.capture.fail(Error::StreamCaptureUnsupported)),
            None => Ok(()),
        }
    }

    /// For calls that wait for a stream's work.
    ///
    /// # Errors
    /// `StreamCaptureUnsupported` on a capturing stream; `Implicit` on the legacy one beside it.
    pub fn refuse_wait(&self, place: &Place) -> Result {
        self.refuse_in_capture(place)?;
        self.refuse_legacy(&lock(&self.by_stream), place)
    }

    /// For calls that wait for all of a context's work.
    ///
    /// # Errors
    /// `StreamCaptureUnsupported`.
    pub fn refuse_wait_for_context(&self, context: usize) -> Result {
        match lock(&self.by_stream).values().find(|c| c.capture.context == context) {
            Some(capturing) => Err(capturing.capture.fail(Error::StreamCaptureUnsupported)),
            None => Ok(()),
        }
    }

    /// An event of the capture was asked for, which ends it.
    pub fn break_capture(&self, number: u64) {
        if let Some(found) = lock(&self.by_stream).values().find(|c| c.capture.number == number) {
            found.capture.fail(Error::CapturedEvent);
        }
    }

    /// A destroyed stream takes its capture with it.
    pub fn stream_is_gone(&self, key: usize) {
        let mut streams = lock(&self.by_stream);
        if let Some(gone) = streams.remove(&key) {
            gone.capture.fail(Error::StreamCaptureInvalidated);
        }
    }

    /// Forgets the captures of a context that ends.
    pub fn forget(&self, context: usize) {
        lock(&self.by_stream).retain(|_, capturing| capturing.capture.context != context);
    }
}

/// A graph that is being captured into is not the program's to destroy.
pub fn is_capturing_into(driver: &Driver, graph: usize) -> bool {
    lock(&driver.captures.by_stream).values().any(|c| c.capture.graph_handle == graph)
}
