//! Graphs: work kept as nodes with edges, and what they become when they are instantiated.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::allocation::{Origin, release};
use super::error::{Error, Result};
use super::handle::lock;
use super::state::{Driver, driver};
use super::work::Work;

/// A graph that a program builds or captures.
pub struct Graph {
    pub context: usize,
    /// A part of another graph, which destroys it.
    pub child: bool,
    nodes: Mutex<Vec<Node>>,
    memory: Arc<GraphMemory>,
}

/// Work, and what it comes after.
#[derive(Clone)]
pub struct Node {
    pub handle: usize,
    pub work: Work,
    pub after: Vec<usize>,
    /// The node that it is a copy of.
    pub original: Option<usize>,
}

/// Memory of a graph's allocation nodes: there for as long as the graph or an executable of it is.
#[derive(Default)]
pub struct GraphMemory {
    addresses: Mutex<Vec<u64>>,
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        let Ok(driver) = driver() else { return };
        for &address in lock(&self.addresses).iter() {
            let of_graph = driver.allocations.remove(address, Error::InvalidValue, |found| {
                matches!(found.origin, Origin::Graph)
            });
            if let Ok(allocation) = of_graph {
                // There is nobody left to tell.
                let _ = release(driver, allocation);
            }
        }
    }
}

/// A graph ready to be launched: its work in an order that its edges allow.
pub struct Executable {
    pub context: usize,
    pub flags: u64,
    pub steps: Mutex<Vec<Step>>,
    /// Kept alive, never looked at.
    _memory: Vec<Arc<GraphMemory>>,
}

#[derive(Clone)]
pub struct Step {
    /// The node that it is made from.
    pub node: usize,
    pub work: Work,
    pub enabled: bool,
}

impl Graph {
    pub fn new(context: usize) -> Graph {
        Graph { context, child: false, nodes: Mutex::default(), memory: Arc::default() }
    }

    /// Adds a node after others.
    ///
    /// # Errors
    /// `InvalidValue` if one of the others is not in the graph.
    pub fn add(
        &self,
        driver: &Driver,
        own_handle: usize,
        work: Work,
        mut after: Vec<usize>,
    ) -> Result<usize> {
        let mut nodes = lock(&self.nodes);
        if !after.iter().all(|node| nodes.iter().any(|other| other.handle == *node)) {
            return Err(Error::InvalidValue);
        }
        let mut seen = BTreeSet::new();
        after.retain(|node| seen.insert(*node));
        let handle = driver.nodes.insert(own_handle);
        nodes.push(Node { handle, work, after, original: None });
        Ok(handle)
    }

    /// Takes memory that one of its nodes allocates.
    pub fn own(&self, address: u64) {
        lock(&self.memory.addresses).push(address);
    }

    pub fn has(&self, node: usize) -> bool {
        lock(&self.nodes).iter().any(|other| other.handle == node)
    }

    /// The nodes in the order in which they were added.
    pub fn nodes(&self) -> Vec<Node> {
        lock(&self.nodes).clone()
    }

    /// Looks at a node, or changes it.
    ///
    /// # Errors
    /// `InvalidHandle`.
    pub fn with_node<T>(&self, node: usize, body: impl FnOnce(&mut Node) -> T) -> Result<T> {
        let mut nodes = lock(&self.nodes);
        nodes.iter_mut().find(|n| n.handle == node).map(body).ok_or(Error::InvalidHandle)
    }

    /// Takes a node out; what came after it comes after nothing of it any more.
    pub fn remove(&self, node: usize) {
        let mut nodes = lock(&self.nodes);
        nodes.retain(|other| other.handle != node);
        for other in nodes.iter_mut() {
            other.after.retain(|before| *before != node);
        }
    }

    /// These nodes and all that come before them.
    pub fn before(&self, nodes: &[usize]) -> BTreeSet<usize> {
        let all = lock(&self.nodes);
        let edges: BTreeMap<usize, &[usize]> =
            all.iter().map(|node| (node.handle, node.after.as_slice())).collect();
        let mut found = BTreeSet::new();
        let mut todo = nodes.to_vec();
        while let Some(node) = todo.pop() {
            if found.insert(node) {
                todo.extend(edges.get(&node).copied().unwrap_or_default());
            }
        }
        found
    }

    /// The nodes in an order that the edges allow, earlier ones first where they leave the choice.
    ///
    /// # Errors
    /// `InvalidValue` for a cycle.
    fn sorted(&self) -> Result<Vec<Node>> {
        let mut left = self.nodes();
        let mut done = BTreeSet::new();
        let mut sorted = Vec::with_capacity(left.len());
        while !left.is_empty() {
            let (ready, rest): (Vec<Node>, Vec<Node>) =
                left.into_iter().partition(|node| node.after.iter().all(|n| done.contains(n)));
            if ready.is_empty() {
                return Err(Error::InvalidValue);
            }
            done.extend(ready.iter().map(|node| node.handle));
            sorted.extend(ready);
            left = rest;
        }
        Ok(sorted)
    }

    /// A copy with nodes of its own, and its handle.
    pub fn copy(&self, driver: &Driver, child: bool) -> Result<usize> {
        let handle = driver.graphs.reserve();
        let originals = self.nodes();
        let renamed: BTreeMap<usize, usize> =
            originals.iter().map(|node| (node.handle, driver.nodes.insert(handle))).collect();
        let mut nodes = Vec::with_capacity(originals.len());
        for node in &originals {
            let work = match &node.work {
                Work::Child(graph) => Work::Child(driver.graphs.get(*graph)?.copy(driver, true)?),
                work => work.clone(),
            };
            nodes.push(Node {
                handle: renamed[&node.handle],
                work,
                after: node.after.iter().filter_map(|n| renamed.get(n).copied()).collect(),
                original: Some(node.handle),
            });
        }
        let copy = Graph {
            context: self.context,
            child,
            nodes: Mutex::new(nodes),
            memory: self.memory.clone(),
        };
        driver.graphs.insert_at(handle, copy);
        Ok(handle)
    }

    /// All the work, that of graphs inside too, in order.
    ///
    /// # Errors
    /// `InvalidValue` for a cycle.
    pub fn steps(&self, driver: &Driver) -> Result<(Vec<Step>, Vec<Arc<GraphMemory>>)> {
        let mut steps = Vec::new();
        let mut memory = vec![self.memory.clone()];
        for node in self.sorted()? {
            match node.work {
                Work::Child(graph) => {
                    let (inner, its) = driver.graphs.get(graph)?.steps(driver)?;
                    steps.extend(inner);
                    memory.extend(its);
                }
                work => steps.push(Step { node: node.handle, work, enabled: true }),
            }
        }
        Ok((steps, memory))
    }

    /// # Errors
    /// As [`Graph::steps`].
    pub fn executable(&self, driver: &Driver, flags: u64) -> Result<Executable> {
        let (steps, memory) = self.steps(driver)?;
        Ok(Executable { context: self.context, flags, steps: Mutex::new(steps), _memory: memory })
    }
}

/// Destroys a graph with its nodes and the graphs inside it.
///
/// # Errors
/// `InvalidHandle`.
pub fn destroy(driver: &Driver, handle: usize) -> Result {
    let graph = driver.graphs.remove(handle)?;
    for node in graph.nodes() {
        driver.nodes.remove(node.handle)?;
        if let Work::Child(child) = node.work {
            destroy(driver, child)?;
        }
    }
    Ok(())
}
