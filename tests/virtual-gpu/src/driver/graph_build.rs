//! Graphs built by hand: creating, adding nodes and edges, copying, destroying.

use super::abi::{Host, HostFn, In, Out, call};
use super::capture::is_capturing_into;
use super::copy::Copy3D;
use super::error::{Error, Result};
use super::graph::{Graph, destroy};
use super::graph_params::{KernelParams, KernelParams2, MemsetParams};
use super::state::{driver, working};
use super::work::Work;

#[unsafe(no_mangle)]
extern "C" fn cuGraphCreate(out: Out<usize>, flags: u32) -> u32 {
    call("cuGraphCreate", || {
        let (driver, context) = working()?;
        out.check()?;
        if flags != 0 {
            return Err(Error::InvalidValue);
        }
        out.put(driver.graphs.insert(Graph::new(context.handle)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: usize) -> u32 {
    call("cuGraphDestroy", || {
        let driver = driver()?;
        if driver.graphs.get(graph)?.child || is_capturing_into(driver, graph) {
            return Err(Error::InvalidValue);
        }
        destroy(driver, graph)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphClone(out: Out<usize>, graph: usize) -> u32 {
    call("cuGraphClone", || {
        let driver = driver()?;
        out.check()?;
        out.put(driver.graphs.get(graph)?.copy(driver, false)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeFindInClone(out: Out<usize>, original: usize, clone: usize) -> u32 {
    call("cuGraphNodeFindInClone", || {
        let nodes = driver()?.graphs.get(clone)?.nodes();
        let found = nodes.iter().find(|node| node.original == Some(original));
        out.put(found.ok_or(Error::InvalidValue)?.handle)
    })
}

/// Adds a node to a graph after others.
fn add(out: Out<usize>, graph: usize, after: In<usize>, count: usize, work: Work) -> Result {
    let (driver, _) = working()?;
    out.check()?;
    let nodes = after.many(count)?;
    out.put(driver.graphs.get(graph)?.add(driver, graph, work, nodes)?)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEmptyNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
) -> u32 {
    call("cuGraphAddEmptyNode", || add(out, graph, after, count, Work::Empty))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddKernelNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<KernelParams>,
) -> u32 {
    call("cuGraphAddKernelNode", || {
        let launch = params.get()?.launch(driver()?)?;
        add(out, graph, after, count, Work::Launch(launch))
    })
}

/// The second version's parameters only have more behind: a kernel and a context instead of a function.
#[unsafe(no_mangle)]
extern "C" fn cuGraphAddKernelNode_v2(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<KernelParams2>,
) -> u32 {
    call("cuGraphAddKernelNode_v2", || {
        let launch = params.get()?.launch(driver()?)?;
        add(out, graph, after, count, Work::Launch(launch))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemcpyNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<Copy3D>,
    _context: usize,
) -> u32 {
    call("cuGraphAddMemcpyNode", || {
        add(out, graph, after, count, Work::Copy(params.get()?.resolve()?))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddMemsetNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<MemsetParams>,
    _context: usize,
) -> u32 {
    call("cuGraphAddMemsetNode", || {
        add(out, graph, after, count, Work::Fill(params.get()?.fill()?))
    })
}

/// CUDA_HOST_NODE_PARAMS.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HostParams {
    pub function: HostFn,
    pub data: Host,
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddHostNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    params: In<HostParams>,
) -> u32 {
    call("cuGraphAddHostNode", || {
        let HostParams { function, data } = params.get()?;
        function.ok_or(Error::InvalidValue)?;
        add(out, graph, after, count, Work::Host(function, data))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddChildGraphNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    child: usize,
) -> u32 {
    call("cuGraphAddChildGraphNode", || {
        let driver = driver()?;
        let copy = driver.graphs.get(child)?.copy(driver, true)?;
        let added = add(out, graph, after, count, Work::Child(copy));
        if added.is_err() {
            destroy(driver, copy)?;
        }
        added
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEventRecordNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    event: usize,
) -> u32 {
    call("cuGraphAddEventRecordNode", || {
        driver()?.events.get(event)?;
        add(out, graph, after, count, Work::Record(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddEventWaitNode(
    out: Out<usize>,
    graph: usize,
    after: In<usize>,
    count: usize,
    event: usize,
) -> u32 {
    call("cuGraphAddEventWaitNode", || {
        driver()?.events.get(event)?;
        add(out, graph, after, count, Work::Wait(event))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroyNode(node: usize) -> u32 {
    call("cuGraphDestroyNode", || {
        let driver = driver()?;
        let graph = driver.graphs.get(*driver.nodes.get(node)?)?;
        let work = graph.with_node(node, |node| node.work.clone())?;
        graph.remove(node);
        driver.nodes.remove(node)?;
        match work {
            Work::Child(child) => destroy(driver, child),
            _ => Ok(()),
        }
    })
}

/// Edges between nodes of one graph, made or cut.
fn edges(graph: usize, from: In<usize>, to: In<usize>, count: usize, make: bool) -> Result {
    let graph = driver()?.graphs.get(graph)?;
    let pairs: Vec<(usize, usize)> = from.many(count)?.into_iter().zip(to.many(count)?).collect();
    if !pairs.iter().all(|(from, to)| from != to && graph.has(*from) && graph.has(*to)) {
        return Err(Error::InvalidValue);
    }
    for (from, to) in pairs {
        graph.with_node(to, |node| {
            let there = node.after.contains(&from);
            if there == make {
                return Err(Error::InvalidValue);
            }
            if make {
                node.after.push(from);
            } else {
                node.after.retain(|before| *before != from);
            }
            Ok(())
        })??;
    }
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddDependencies(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    count: usize,
) -> u32 {
    call("cuGraphAddDependencies", || edges(graph, from, to, count, true))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphRemoveDependencies(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    count: usize,
) -> u32 {
    call("cuGraphRemoveDependencies", || edges(graph, from, to, count, false))
}

/// CUgraphEdgeData: ports and kind. All zeros, a plain edge, is the only one there is here.
pub type EdgeData = [u8; 8];

/// # Errors
/// `NotSupported` for an edge that is not plain.
pub fn check_edges(data: In<EdgeData>, count: usize) -> Result {
    if data.is_null() || data.many(count)?.iter().all(|edge| *edge == [0; 8]) {
        Ok(())
    } else {
        Err(Error::NotSupported)
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphAddDependencies_v2(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    data: In<EdgeData>,
    count: usize,
) -> u32 {
    call("cuGraphAddDependencies_v2", || {
        check_edges(data, count)?;
        edges(graph, from, to, count, true)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphRemoveDependencies_v2(
    graph: usize,
    from: In<usize>,
    to: In<usize>,
    data: In<EdgeData>,
    count: usize,
) -> u32 {
    call("cuGraphRemoveDependencies_v2", || {
        check_edges(data, count)?;
        edges(graph, from, to, count, false)
    })
}
