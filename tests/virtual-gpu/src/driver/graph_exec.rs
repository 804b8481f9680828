//! Executable graphs: instantiating, launching, changing.

use std::ffi::c_char;

use super::abi::{In, Out, call};
use super::copy::Copy3D;
use super::error::{Error, Result};
use super::graph::Step;
use super::graph_build::HostParams;
use super::graph_params::{KernelParams, KernelParams2, MemsetParams};
use super::handle::lock;
use super::state::{driver, working};
use super::stream::stream;
use super::work::{Work, perform};

/// CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH, _UPLOAD, _DEVICE_LAUNCH, _USE_NODE_PRIORITY.
const FLAGS: u64 = 15;
const AUTO_FREE: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;

fn instantiate(out: Out<usize>, graph: usize, flags: u64) -> Result {
    let (driver, _) = working()?;
    out.check()?;
    let graph = driver.graphs.get(graph)?;
    if flags & !FLAGS != 0 || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH {
        return Err(Error::InvalidValue);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Error::NotSupported);
    }
    out.put(driver.executables.insert(graph.executable(driver, flags & !UPLOAD)?))
}

/// The first version, which the second has the same arguments as.
#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiate(
    out: Out<usize>,
    graph: usize,
    error_node: Out<usize>,
    log: Out<c_char>,
    room: usize,
) -> u32 {
    call("cuGraphInstantiate", || {
        error_node.put_if_wanted(0);
        if !log.is_null() && room > 0 {
            log.put_text("", room)?;
        }
        instantiate(out, graph, 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiate_v2(
    out: Out<usize>,
    graph: usize,
    error_node: Out<usize>,
    log: Out<c_char>,
    room: usize,
) -> u32 {
    cuGraphInstantiate(out, graph, error_node, log, room)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(out: Out<usize>, graph: usize, flags: u64) -> u32 {
    call("cuGraphInstantiateWithFlags", || instantiate(out, graph, flags))
}

/// CUDA_GRAPH_INSTANTIATE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct InstantiateParams {
    flags: u64,
    upload_stream: usize,
    error_node: usize,
    result: u32,
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphInstantiateWithParams(
    out: Out<usize>,
    graph: usize,
    params: Out<InstantiateParams>,
) -> u32 {
    call("cuGraphInstantiateWithParams", || {
        let given = params.get()?;
        let done = instantiate(out, graph, given.flags);
        let result = u32::from(done.is_err());
        params.put(InstantiateParams { error_node: 0, result, ..given })?;
        done
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecGetFlags(executable: usize, flags: Out<u64>) -> u32 {
    call("cuGraphExecGetFlags", || flags.put(driver()?.executables.get(executable)?.flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: usize) -> u32 {
    call("cuGraphExecDestroy", || driver()?.executables.remove(executable).map(drop))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphUpload(executable: usize, on: usize) -> u32 {
    call("cuGraphUpload", || {
        let place = stream(on)?;
        place.context.healthy()?;
        place.driver.executables.get(executable).map(drop)
    })
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuGraphLaunch(executable: usize, on: usize) -> u32 {
    call("cuGraphLaunch", || {
        let place = stream(on)?;
        place.context.healthy()?;
        let executable = place.driver.executables.get(executable)?;
        let steps = lock(&executable.steps).clone();
        let steps = steps.into_iter().filter(|step| step.enabled);
        // Inside another capture its nodes are that one's.
        for Step { work, .. } in steps {
            if let Some(work) = place.driver.captures.keep(&place, work)? {
                perform(place.driver, &place.context, &work)?;
            }
        }
        Ok(())
    })
}

/// Changes one step of an executable graph to work of the same kind.
fn set_step(executable: usize, node: usize, work: Work) -> Result {
    with_step(executable, node, |step| {
        if std::mem::discriminant(&step.work) != std::mem::discriminant(&work) {
            return Err(Error::InvalidValue);
        }
        step.work = work;
        Ok(())
    })?
}

fn with_step<T>(executable: usize, node: usize, body: impl FnOnce(&mut Step) -> T) -> Result<T> {
    let executable = driver()?.executables.get(executable)?;
    let mut steps = lock(&executable.steps);
    steps.iter_mut().find(|step| step.node == node).map(body).ok_or(Error::InvalidValue)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecKernelNodeSetParams(
    executable: usize,
    node: usize,
    params: In<KernelParams>,
) -> u32 {
    call("cuGraphExecKernelNodeSetParams", || {
        set_step(executable, node, Work::Launch(params.get()?.launch(driver()?)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecKernelNodeSetParams_v2(
    executable: usize,
    node: usize,
    params: In<KernelParams2>,
) -> u32 {
    call("cuGraphExecKernelNodeSetParams_v2", || {
        set_step(executable, node, Work::Launch(params.get()?.launch(driver()?)?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecMemcpyNodeSetParams(
    executable: usize,
    node: usize,
    params: In<Copy3D>,
    _context: usize,
) -> u32 {
    call("cuGraphExecMemcpyNodeSetParams", || {
        set_step(executable, node, Work::Copy(params.get()?.resolve()?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecMemsetNodeSetParams(
    executable: usize,
    node: usize,
    params: In<MemsetParams>,
    _context: usize,
) -> u32 {
    call("cuGraphExecMemsetNodeSetParams", || {
        set_step(executable, node, Work::Fill(params.get()?.fill()?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecHostNodeSetParams(
    executable: usize,
    node: usize,
    params: In<HostParams>,
) -> u32 {
    call("cuGraphExecHostNodeSetParams", || {
        let HostParams { function, data } = params.get()?;
        function.ok_or(Error::InvalidValue)?;
        set_step(executable, node, Work::Host(function, data))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecEventRecordNodeSetEvent(
    executable: usize,
    node: usize,
    event: usize,
) -> u32 {
    call("cuGraphExecEventRecordNodeSetEvent", || {
        driver()?.events.get(event)?;
        set_step(executable, node, Work::Record(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecEventWaitNodeSetEvent(
    executable: usize,
    node: usize,
    event: usize,
) -> u32 {
    call("cuGraphExecEventWaitNodeSetEvent", || {
        driver()?.events.get(event)?;
        set_step(executable, node, Work::Wait(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeSetEnabled(executable: usize, node: usize, enabled: u32) -> u32 {
    call("cuGraphNodeSetEnabled", || {
        with_step(executable, node, |step| step.enabled = enabled != 0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetEnabled(executable: usize, node: usize, enabled: Out<u32>) -> u32 {
    call("cuGraphNodeGetEnabled", || {
        enabled.put(with_step(executable, node, |step| u32::from(step.enabled))?)
    })
}

/// CU_GRAPH_EXEC_UPDATE_SUCCESS, _ERROR_TOPOLOGY_CHANGED, _ERROR_NODE_TYPE_CHANGED.
const UPDATED: u32 = 0;
const TOPOLOGY_CHANGED: u32 = 2;
const NODE_TYPE_CHANGED: u32 = 3;

/// The graph's work into an executable of the same shape: a code, and the node that does not fit.
fn update(executable: usize, graph: usize) -> Result<(u32, usize)> {
    let driver = driver()?;
    let executable = driver.executables.get(executable)?;
    let (new, _memory) = driver.graphs.get(graph)?.steps(driver)?;
    let mut steps = lock(&executable.steps);
    if steps.len() != new.len() {
        return Ok((TOPOLOGY_CHANGED, 0));
    }
    let differs = steps
        .iter()
        .zip(&new)
        .find(|(old, new)| std::mem::discriminant(&old.work) != std::mem::discriminant(&new.work));
    if let Some((_, new)) = differs {
        return Ok((NODE_TYPE_CHANGED, new.node));
    }
    for (old, new) in steps.iter_mut().zip(new) {
        old.work = new.work;
    }
    Ok((UPDATED, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecUpdate(
    executable: usize,
    graph: usize,
    error_node: Out<usize>,
    result: Out<u32>,
) -> u32 {
    call("cuGraphExecUpdate", || {
        let (code, node) = update(executable, graph)?;
        error_node.put_if_wanted(node);
        result.put(code)?;
        if code == UPDATED { Ok(()) } else { Err(Error::GraphExecUpdateFailure) }
    })
}

/// CUgraphExecUpdateResultInfo.
#[repr(C)]
pub struct UpdateInfo {
    result: u32,
    error_node: usize,
    error_from_node: usize,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecUpdate_v2(executable: usize, graph: usize, info: Out<UpdateInfo>) -> u32 {
    call("cuGraphExecUpdate_v2", || {
        info.check()?;
        let (result, error_node) = update(executable, graph)?;
        info.put(UpdateInfo { result, error_node, error_from_node: 0 })?;
        if result == UPDATED { Ok(()) } else { Err(Error::GraphExecUpdateFailure) }
    })
}
