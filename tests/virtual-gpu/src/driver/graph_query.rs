//! What graphs are made of: nodes, edges, kinds.

use super::abi::{Out, call};
use super::error::{Error, Result};
use super::graph::{Graph, Node};
use super::graph_build::EdgeData;
use super::graph_params::work_of;
use super::state::driver;
use super::work::Work;

/// The list that a caller asked for: with a null pointer its length alone; else as many as it has room
/// for, and null handles behind the last.
fn put_list(out: Out<usize>, count: Out<usize>, list: &[usize]) -> Result {
    if out.is_null() {
        return count.put(list.len());
    }
    let room = count.get()?;
    out.put_all(list.iter().copied().chain(std::iter::repeat(0)).take(room))?;
    count.put(list.len().min(room))
}

fn handles(nodes: &[Node], wanted: impl Fn(&Node) -> bool) -> Vec<usize> {
    nodes.iter().filter(|node| wanted(node)).map(|node| node.handle).collect()
}

fn nodes_of(graph: usize) -> Result<Vec<Node>> {
    Ok(driver()?.graphs.get(graph)?.nodes())
}

fn graph_of(node: usize) -> Result<std::sync::Arc<Graph>> {
    let driver = driver()?;
    driver.graphs.get(*driver.nodes.get(node)?)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetNodes(graph: usize, out: Out<usize>, count: Out<usize>) -> u32 {
    call("cuGraphGetNodes", || put_list(out, count, &handles(&nodes_of(graph)?, |_| true)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetRootNodes(graph: usize, out: Out<usize>, count: Out<usize>) -> u32 {
    call("cuGraphGetRootNodes", || {
        put_list(out, count, &handles(&nodes_of(graph)?, |node| node.after.is_empty()))
    })
}

fn get_edges(graph: usize, from: Out<usize>, to: Out<usize>, count: Out<usize>) -> Result {
    let mut edges = Vec::new();
    for node in nodes_of(graph)? {
        edges.extend(node.after.iter().map(|before| (*before, node.handle)));
    }
    if from.is_null() != to.is_null() {
        return Err(Error::InvalidValue);
    }
    let room = if from.is_null() { 0 } else { count.get()? };
    let (first, second): (Vec<usize>, Vec<usize>) = edges.into_iter().unzip();
    if !from.is_null() {
        let filled = |list: &[usize]| {
            list.iter().copied().chain(std::iter::repeat(0)).take(room).collect::<Vec<_>>()
        };
        from.put_all(filled(&first))?;
        to.put_all(filled(&second))?;
        return count.put(first.len().min(room));
    }
    count.put(first.len())
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetEdges(
    graph: usize,
    from: Out<usize>,
    to: Out<usize>,
    count: Out<usize>,
) -> u32 {
    call("cuGraphGetEdges", || get_edges(graph, from, to, count))
}

/// All edges are plain: zeros, where their data is wanted.
fn plain(data: Out<EdgeData>, room: usize) -> Result {
    if data.is_null() { Ok(()) } else { data.put_all(std::iter::repeat_n([0; 8], room)) }
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetEdges_v2(
    graph: usize,
    from: Out<usize>,
    to: Out<usize>,
    data: Out<EdgeData>,
    count: Out<usize>,
) -> u32 {
    call("cuGraphGetEdges_v2", || {
        get_edges(graph, from, to, count)?;
        plain(data, if from.is_null() { 0 } else { count.get()? })
    })
}

fn before(node: usize, out: Out<usize>, count: Out<usize>) -> Result {
    put_list(out, count, &graph_of(node)?.with_node(node, |node| node.after.clone())?)
}

fn after(node: usize, out: Out<usize>, count: Out<usize>) -> Result {
    let nodes = graph_of(node)?.nodes();
    put_list(out, count, &handles(&nodes, |other| other.after.contains(&node)))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependencies(node: usize, out: Out<usize>, count: Out<usize>) -> u32 {
    call("cuGraphNodeGetDependencies", || before(node, out, count))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependencies_v2(
    node: usize,
    out: Out<usize>,
    data: Out<EdgeData>,
    count: Out<usize>,
) -> u32 {
    call("cuGraphNodeGetDependencies_v2", || {
        before(node, out, count)?;
        plain(data, if out.is_null() { 0 } else { count.get()? })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependentNodes(node: usize, out: Out<usize>, count: Out<usize>) -> u32 {
    call("cuGraphNodeGetDependentNodes", || after(node, out, count))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetDependentNodes_v2(
    node: usize,
    out: Out<usize>,
    data: Out<EdgeData>,
    count: Out<usize>,
) -> u32 {
    call("cuGraphNodeGetDependentNodes_v2", || {
        after(node, out, count)?;
        plain(data, if out.is_null() { 0 } else { count.get()? })
    })
}

/// CUgraphNodeType.
#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetType(node: usize, out: Out<u32>) -> u32 {
    call("cuGraphNodeGetType", || {
        out.put(match work_of(node)? {
            Work::Launch(_) => 0,
            Work::Copy(_) => 1,
            Work::Fill(_) => 2,
            Work::Host(..) | Work::Callback(..) => 3,
            Work::Child(_) => 4,
            Work::Empty => 5,
            Work::Wait(_) => 6,
            Work::Record(_) => 7,
            Work::Allocate(_) => 10,
            Work::Free(_) => 11,
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphNodeGetContainingGraph(node: usize, out: Out<usize>) -> u32 {
    call("cuGraphNodeGetContainingGraph", || out.put(*driver()?.nodes.get(node)?))
}
