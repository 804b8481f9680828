//! The driver's state: one device, its contexts, and the tables of handles.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::allocation::Allocations;
use super::capture::Captures;
use super::error::{Error, Result};
use super::event::Event;
use super::graph::{Executable, Graph};
use super::handle::{Kind, Table, lock};
use super::limits::Limits;
use super::link::Link;
use super::module::{Function, LoadedModule};
use super::pool::Pool;
use super::stream::Stream;
use crate::gpu::Gpu;
use crate::options::Options;

/// Everything, from cuInit on.
pub struct Driver {
    pub options: Options,
    pub limits: &'static Limits,
    pub gpu: Gpu,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<LoadedModule>,
    pub libraries: Table<LoadedModule>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    /// Which graph a node is in.
    pub nodes: Table<usize>,
    pub executables: Table<Executable>,
    pub pools: Table<Pool>,
    pub links: Table<Link>,
    pub allocations: Allocations,
    pub captures: Captures,
    pub primary: Mutex<Primary>,
    /// Modelled cycles of all launches so far: the time that events tell.
    pub clock: AtomicU64,
    /// Launches so far.
    pub launches: AtomicU64,
    /// Held by a launch: one kernel is on the device at a time, with all of the host's cores.
    pub running: Mutex<()>,
    pub default_pool: usize,
    pub current_pool: AtomicUsize,
}

/// The device's primary context.
#[derive(Default)]
pub struct Primary {
    pub handle: Option<usize>,
    pub retained: usize,
    pub flags: u32,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();

/// The driver.
///
/// # Errors
/// `NotInitialized` before cuInit.
pub fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or(Error::NotInitialized)
}

/// cuInit.
///
/// # Errors
/// `NoDevice` if the environment does not describe one; a line on stderr says why.
pub fn initialise() -> Result<&'static Driver> {
    if let Some(driver) = DRIVER.get() {
        return Ok(driver);
    }
    let options = Options::from_env().map_err(|wrong| {
        super::abi::tell("cuInit", &wrong.to_string());
        Error::NoDevice
    })?;
    Ok(DRIVER.get_or_init(|| Driver::new(options)))
}

impl Driver {
    fn new(options: Options) -> Driver {
        let pools = Table::new(Kind::Pool);
        let default_pool = pools.insert(Pool::default());
        Driver {
            limits: Limits::of(options.compute_capability),
            gpu: Gpu::new(options.clone()),
            options,
            contexts: Table::new(Kind::Context),
            streams: Table::new(Kind::Stream),
            events: Table::new(Kind::Event),
            modules: Table::new(Kind::Module),
            libraries: Table::new(Kind::Library),
            functions: Table::new(Kind::Function),
            graphs: Table::new(Kind::Graph),
            nodes: Table::new(Kind::GraphNode),
            executables: Table::new(Kind::GraphExec),
            pools,
            links: Table::new(Kind::Link),
            allocations: Allocations::default(),
            captures: Captures::default(),
            primary: Mutex::default(),
            clock: AtomicU64::new(0),
            launches: AtomicU64::new(0),
            running: Mutex::new(()),
            default_pool,
            current_pool: AtomicUsize::new(default_pool),
        }
    }

    /// Counts a launch, and says whether it is the one that the settings want to fault.
    pub fn is_to_fault(&self) -> bool {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed) + 1;
        self.options.fault_at == Some(launch)
    }

    /// Destroys what belongs to a context, as cuCtxDestroy and a reset do.
    pub fn clear(&self, context: usize) {
        self.captures.forget(context);
        self.executables.retain(|_, executable| executable.context != context);
        self.graphs.retain(|_, graph| graph.context != context);
        self.events.retain(|_, event| event.context != context);
        self.streams.retain(|_, stream| stream.context != context);
        self.functions.retain(|_, function| function.context != context);
        self.modules.retain(|_, module| module.context != context);
        self.allocations.free_all_of(self, context);
    }
}

/// A context: what a program's threads make current before they do anything.
pub struct Context {
    pub handle: usize,
    pub primary: bool,
    pub flags: AtomicU32,
    pub cache_config: AtomicU32,
    pub shared_config: AtomicU32,
    pub limits: Mutex<[usize; super::context::LIMITS]>,
    /// The first fault of a kernel: from then on every call returns it, as on a GPU.
    fault: Mutex<Option<Error>>,
}

impl Context {
    pub fn new(handle: usize, primary: bool, flags: u32) -> Context {
        Context {
            handle,
            primary,
            flags: AtomicU32::new(flags),
            cache_config: AtomicU32::new(0),
            shared_config: AtomicU32::new(0),
            limits: Mutex::new(super::context::default_limits()),
            fault: Mutex::new(None),
        }
    }

    /// # Errors
    /// The fault that a kernel left.
    pub fn healthy(&self) -> Result {
        lock(&self.fault).map_or(Ok(()), Err)
    }

    /// Keeps a kernel's fault, unless there is one already.
    pub fn fail(&self, fault: Error) {
        lock(&self.fault).get_or_insert(fault);
    }

    /// After a reset the device is as new.
    pub fn mend(&self) {
        *lock(&self.fault) = None;
    }
}

thread_local! {
    static STACK: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// The contexts that are current for this thread, the last one on top.
pub fn with_stack<T>(body: impl FnOnce(&mut Vec<usize>) -> T) -> T {
    STACK.with_borrow_mut(body)
}

/// A number for this thread, from 1.
pub fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    THREAD.with(|number| {
        if number.get() == 0 {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

/// The driver and the thread's current context, whether or not a kernel failed in it.
///
/// # Errors
/// `NotInitialized`, `InvalidContext` without one, `ContextIsDestroyed`.
pub fn current() -> Result<(&'static Driver, Arc<Context>)> {
    let driver = driver()?;
    let handle = with_stack(|stack| stack.last().copied()).ok_or(Error::InvalidContext)?;
    let context = driver.contexts.get(handle).map_err(|_| Error::ContextIsDestroyed)?;
    Ok((driver, context))
}

/// As [`current`], for calls that work needs.
///
/// # Errors
/// Also the fault that an earlier kernel left in the context.
pub fn working() -> Result<(&'static Driver, Arc<Context>)> {
    let (driver, context) = current()?;
    context.healthy()?;
    Ok((driver, context))
}
