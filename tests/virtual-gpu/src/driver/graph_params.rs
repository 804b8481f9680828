//! What graph nodes do: their parameters, read and set.

use super::abi::{Host, In, Out, call};
use super::copy::{Copy, Copy3D, Side, Side3D};
use super::error::{Error, Result};
use super::graph_build::HostParams;
use super::launch::{Launch, Params};
use super::set::Fill;
use super::state::{Driver, driver};
use super::work::Work;

/// CUDA_KERNEL_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelParams {
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    each: In<Host>,
    extra: In<Host>,
}

/// CUDA_KERNEL_NODE_PARAMS_v2: a kernel may stand in place of the function.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct KernelParams2 {
    first: KernelParams,
    kernel: usize,
    context: usize,
}

/// CUDA_MEMSET_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemsetParams {
    at: u64,
    pitch: usize,
    value: u32,
    element: u32,
    width: usize,
    height: usize,
}

impl KernelParams {
    /// # Errors
    /// Those of a launch.
    pub fn launch(&self, driver: &'static Driver) -> Result<Launch> {
        let params = Params { each: self.each, extra: self.extra };
        Launch::new(driver, self.function, self.grid, self.block, self.shared, params, false)
    }
}

impl KernelParams2 {
    /// # Errors
    /// Those of a launch.
    pub fn launch(&self, driver: &'static Driver) -> Result<Launch> {
        let mut first = self.first;
        if first.function == 0 {
            first.function = self.kernel;
        }
        first.launch(driver)
    }
}

impl MemsetParams {
    /// # Errors
    /// As [`Fill::check`].
    pub fn fill(&self) -> Result<Fill> {
        let (width, rows) = (self.width as u64, self.height as u64);
        let (pitch, value) = (self.pitch as u64, self.value);
        let fill = Fill { at: self.at, pitch, value, element: self.element, width, rows };
        fill.check()?;
        Ok(fill)
    }
}

/// A node's work.
pub fn work_of(node: usize) -> Result<Work> {
    let driver = driver()?;
    driver.graphs.get(*driver.nodes.get(node)?)?.with_node(node, |node| node.work.clone())
}

/// Changes a node's work to one of the same kind.
fn set_work(node: usize, work: Work) -> Result {
    let driver = driver()?;
    driver.graphs.get(*driver.nodes.get(node)?)?.with_node(node, |node| {
        if std::mem::discriminant(&node.work) != std::mem::discriminant(&work) {
            return Err(Error::InvalidValue);
        }
        node.work = work;
        Ok(())
    })?
}

/// Pointers to a kernel node's parameters, as the driver keeps them: good until the node changes.
fn kernel_params(node: usize) -> Result<KernelParams> {
    let Work::Launch(launch) = work_of(node)? else { return Err(Error::InvalidValue) };
    let each = launch.addresses.as_ptr().expose_provenance() as u64;
    Ok(KernelParams {
        function: launch.handle,
        grid: launch.grid,
        block: launch.block,
        shared: launch.shared,
        each: In::from(Host::at(each)),
        extra: In::null(),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeGetParams(node: usize, out: Out<KernelParams>) -> u32 {
    call("cuGraphKernelNodeGetParams", || out.put(kernel_params(node)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeGetParams_v2(node: usize, out: Out<KernelParams2>) -> u32 {
    call("cuGraphKernelNodeGetParams_v2", || {
        let first = kernel_params(node)?;
        let driver = driver()?;
        let context = driver.graphs.get(*driver.nodes.get(node)?)?.context;
        out.put(KernelParams2 { first, kernel: 0, context })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeSetParams(node: usize, params: In<KernelParams>) -> u32 {
    call("cuGraphKernelNodeSetParams", || {
        set_work(node, Work::Launch(params.get()?.launch(driver()?)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphKernelNodeSetParams_v2(node: usize, params: In<KernelParams2>) -> u32 {
    call("cuGraphKernelNodeSetParams_v2", || {
        set_work(node, Work::Launch(params.get()?.launch(driver()?)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemsetNodeGetParams(node: usize, out: Out<MemsetParams>) -> u32 {
    call("cuGraphMemsetNodeGetParams", || {
        let Work::Fill(fill) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(MemsetParams {
            at: fill.at,
            pitch: fill.pitch as usize,
            value: fill.value,
            element: fill.element,
            width: fill.width as usize,
            height: fill.rows as usize,
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemsetNodeSetParams(node: usize, params: In<MemsetParams>) -> u32 {
    call("cuGraphMemsetNodeSetParams", || set_work(node, Work::Fill(params.get()?.fill()?)))
}

/// A copy as the call that made it could have said it: offsets are in the pointers.
fn copy_params(copy: &Copy) -> Copy3D {
    let side = |layout: &super::copy::Layout| {
        let (kind, host, device) = match layout.side {
            Side::Host(host) => (1, host, 0),
            Side::Device(address) => (2, Host::at(0), address),
            Side::Either(address) => (4, Host::at(0), address),
        };
        let pitch = if layout.pitch == 0 { copy.width } else { layout.pitch };
        let height = layout.slice.checked_div(pitch).filter(|&n| n > 0).unwrap_or(copy.rows);
        Side3D {
            x: 0,
            y: 0,
            z: 0,
            level: 0,
            kind,
            host,
            device,
            array: 0,
            reserved: 0,
            pitch: pitch as usize,
            height: height as usize,
        }
    };
    Copy3D {
        from: side(&copy.from),
        to: side(&copy.to),
        width: copy.width as usize,
        height: copy.rows as usize,
        depth: copy.slices as usize,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemcpyNodeGetParams(node: usize, out: Out<Copy3D>) -> u32 {
    call("cuGraphMemcpyNodeGetParams", || {
        let Work::Copy(copy) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(copy_params(&copy))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemcpyNodeSetParams(node: usize, params: In<Copy3D>) -> u32 {
    call("cuGraphMemcpyNodeSetParams", || set_work(node, Work::Copy(params.get()?.resolve()?)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphHostNodeGetParams(node: usize, out: Out<HostParams>) -> u32 {
    call("cuGraphHostNodeGetParams", || {
        let Work::Host(function, data) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(HostParams { function, data })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphHostNodeSetParams(node: usize, params: In<HostParams>) -> u32 {
    call("cuGraphHostNodeSetParams", || {
        let HostParams { function, data } = params.get()?;
        function.ok_or(Error::InvalidValue)?;
        set_work(node, Work::Host(function, data))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphEventRecordNodeGetEvent(node: usize, out: Out<usize>) -> u32 {
    call("cuGraphEventRecordNodeGetEvent", || {
        let Work::Record(event) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphEventRecordNodeSetEvent(node: usize, event: usize) -> u32 {
    call("cuGraphEventRecordNodeSetEvent", || {
        driver()?.events.get(event)?;
        set_work(node, Work::Record(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphEventWaitNodeGetEvent(node: usize, out: Out<usize>) -> u32 {
    call("cuGraphEventWaitNodeGetEvent", || {
        let Work::Wait(event) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphEventWaitNodeSetEvent(node: usize, event: usize) -> u32 {
    call("cuGraphEventWaitNodeSetEvent", || {
        driver()?.events.get(event)?;
        set_work(node, Work::Wait(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphChildGraphNodeGetGraph(node: usize, out: Out<usize>) -> u32 {
    call("cuGraphChildGraphNodeGetGraph", || {
        let Work::Child(graph) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(graph)
    })
}

/// CUDA_MEM_ALLOC_NODE_PARAMS: the pool's properties are 88 bytes.
#[repr(C)]
pub struct AllocParams {
    /// CU_MEM_ALLOCATION_TYPE_PINNED, no handles, on the device (CU_MEM_LOCATION_TYPE_DEVICE) number 0.
    pool: [u32; 22],
    access: usize,
    access_count: usize,
    bytes: usize,
    address: u64,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemAllocNodeGetParams(node: usize, out: Out<AllocParams>) -> u32 {
    call("cuGraphMemAllocNodeGetParams", || {
        let Work::Allocate(address) = work_of(node)? else { return Err(Error::InvalidValue) };
        let bytes = driver()?.allocations.at(address, |found| found.bytes as usize).unwrap_or(0);
        let mut pool = [0; 22];
        (pool[0], pool[2]) = (1, 1);
        out.put(AllocParams { pool, access: 0, access_count: 0, bytes, address })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphMemFreeNodeGetParams(node: usize, out: Out<u64>) -> u32 {
    call("cuGraphMemFreeNodeGetParams", || {
        let Work::Free(address) = work_of(node)? else { return Err(Error::InvalidValue) };
        out.put(address)
    })
}
