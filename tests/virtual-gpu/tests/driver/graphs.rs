//! Graphs built by hand: nodes of each kind, edges, changes, copies, graphs in graphs.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUresult};

use crate::common::{ok, options, raw_context, raw_kernel};

/// Memory of `words` words, all 0.
fn zeros(words: usize) -> u64 {
    let mut memory = 0;
    // SAFETY: the pointer is to a local.
    unsafe {
        ok(sys::cuMemAlloc_v2(&mut memory, 4 * words));
        ok(sys::cuMemsetD32_v2(memory, 0, words));
    }
    memory
}

fn words(memory: u64, count: usize) -> Vec<u32> {
    let mut got = vec![0; count];
    // SAFETY: the memory and `got` have so many words.
    unsafe { ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 4 * count)) };
    got
}

fn instantiate(graph: sys::CUgraph) -> sys::CUgraphExec {
    let mut executable = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    unsafe { ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)) };
    executable
}

fn launch(executable: sys::CUgraphExec) {
    // SAFETY: the graph's memory is there.
    unsafe { ok(sys::cuGraphLaunch(executable, std::ptr::null_mut())) };
}

fn create() -> sys::CUgraph {
    let mut graph = std::ptr::null_mut();
    // SAFETY: the pointer is to a local.
    unsafe { ok(sys::cuGraphCreate(&mut graph, 0)) };
    graph
}

fn fill(at: u64, value: u32, width: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    // SAFETY: all of its fields are numbers.
    let mut params: sys::CUDA_MEMSET_NODE_PARAMS = unsafe { std::mem::zeroed() };
    (params.dst, params.value, params.elementSize) = (at, value, 4);
    (params.width, params.height) = (width, 1);
    params
}

/// A node that adds 1 to words.
struct AddOne {
    kernel: sys::CUfunction,
    at: u64,
    n: u32,
}

impl AddOne {
    fn with<T>(&self, body: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> T) -> T {
        let (mut at, mut n) = (self.at, self.n);
        let mut each: [*mut c_void; 2] = [(&raw mut at).cast(), (&raw mut n).cast()];
        // SAFETY: all of its fields are numbers and pointers.
        let mut params: sys::CUDA_KERNEL_NODE_PARAMS = unsafe { std::mem::zeroed() };
        params.func = self.kernel;
        (params.gridDimX, params.gridDimY, params.gridDimZ) = (1, 1, 1);
        (params.blockDimX, params.blockDimY, params.blockDimZ) = (32, 1, 1);
        params.kernelParams = each.as_mut_ptr();
        body(&params)
    }
}

unsafe extern "C" fn count(data: *mut c_void) {
    // SAFETY: the test gives a counter that outlives the call.
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn nodes_of_each_kind_in_the_order_of_their_edges() {
    let name = "graphs::nodes_of_each_kind_in_the_order_of_their_edges";
    virtual_gpu::run(name, &options(), || {
        let context = raw_context();
        let (memory, kernel) = (zeros(8), raw_kernel("add_one"));
        let counter = AtomicU32::new(0);
        let graph = create();
        // SAFETY: all pointers are to locals that outlive the calls.
        unsafe {
            let null = std::ptr::null();
            let mut event = std::ptr::null_mut();
            ok(sys::cuEventCreate(&mut event, 0));
            let (mut copy, mut add, mut set) =
                (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            let (mut host, mut mark) = (std::ptr::null_mut(), std::ptr::null_mut());
            // Added the wrong way round: copy, then add, then set; edges put it right.
            let mut params = MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
            (*params.as_mut_ptr()).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
            (*params.as_mut_ptr()).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
            let mut params = params.assume_init();
            (params.srcDevice, params.dstDevice) = (memory, memory + 16);
            (params.WidthInBytes, params.Height, params.Depth) = (16, 1, 1);
            ok(sys::cuGraphAddMemcpyNode(&mut copy, graph, null, 0, &params, context));
            AddOne { kernel, at: memory, n: 3 }.with(|params| {
                ok(sys::cuGraphAddKernelNode_v2(&mut add, graph, null, 0, params));
            });
            let params = fill(memory, 5, 4);
            ok(sys::cuGraphAddMemsetNode(&mut set, graph, null, 0, &params, context));
            ok(sys::cuGraphAddDependencies(graph, &set, &add, 1));
            ok(sys::cuGraphAddDependencies(graph, &add, &copy, 1));
            let params = sys::CUDA_HOST_NODE_PARAMS {
                fn_: Some(count),
                userData: (&raw const counter).cast_mut().cast(),
            };
            ok(sys::cuGraphAddHostNode(&mut host, graph, &copy, 1, &params));
            ok(sys::cuGraphAddEventRecordNode(&mut mark, graph, &host, 1, event));
            let twice = sys::cuGraphAddDependencies(graph, &set, &add, 1);
            assert_eq!(twice, CUresult::CUDA_ERROR_INVALID_VALUE);
            let executable = instantiate(graph);
            launch(executable);
            assert_eq!(words(memory, 8), [6, 6, 6, 5, 6, 6, 6, 5]);
            assert_eq!(counter.load(Ordering::Relaxed), 1);
            let mut ms = 1.0;
            ok(sys::cuEventElapsedTime(&mut ms, event, event));
            assert_eq!(ms, 0.0);
            use sys::CUgraphNodeType::*;
            for (node, want) in [
                (copy, CU_GRAPH_NODE_TYPE_MEMCPY),
                (add, CU_GRAPH_NODE_TYPE_KERNEL),
                (set, CU_GRAPH_NODE_TYPE_MEMSET),
                (host, CU_GRAPH_NODE_TYPE_HOST),
                (mark, CU_GRAPH_NODE_TYPE_EVENT_RECORD),
            ] {
                let mut kind = CU_GRAPH_NODE_TYPE_EMPTY;
                ok(sys::cuGraphNodeGetType(node, &mut kind));
                assert_eq!(kind, want);
            }
            // A cycle has no order.
            ok(sys::cuGraphAddDependencies(graph, &copy, &set, 1));
            let mut none = std::ptr::null_mut();
            let cycle = sys::cuGraphInstantiateWithFlags(&mut none, graph, 0);
            assert_eq!(cycle, CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuGraphRemoveDependencies(graph, &copy, &set, 1));
            // A removed node is not run; what was instantiated before stays as it was.
            ok(sys::cuGraphDestroyNode(add));
            ok(sys::cuGraphAddDependencies(graph, &set, &copy, 1));
            launch(instantiate(graph));
            assert_eq!(words(memory, 8), [5; 8]);
            launch(executable);
            assert_eq!(words(memory, 8), [6, 6, 6, 5, 6, 6, 6, 5]);
        }
    });
}

#[test]
fn parameters_change_in_the_executable_or_in_the_graph() {
    let name = "graphs::parameters_change_in_the_executable_or_in_the_graph";
    virtual_gpu::run(name, &options(), || {
        raw_context();
        let (memory, kernel) = (zeros(8), raw_kernel("add_one"));
        let graph = create();
        let mut node = std::ptr::null_mut();
        // SAFETY: all pointers are to locals.
        unsafe {
            AddOne { kernel, at: memory, n: 4 }.with(|params| {
                ok(sys::cuGraphAddKernelNode_v2(&mut node, graph, std::ptr::null(), 0, params));
            });
            let executable = instantiate(graph);
            launch(executable);
            AddOne { kernel, at: memory + 16, n: 2 }.with(|params| {
                ok(sys::cuGraphExecKernelNodeSetParams_v2(executable, node, params));
            });
            launch(executable);
            launch(executable);
            assert_eq!(words(memory, 8), [1, 1, 1, 1, 2, 2, 0, 0]);
            // The graph still has the old ones.
            let mut params = std::mem::zeroed::<sys::CUDA_KERNEL_NODE_PARAMS>();
            ok(sys::cuGraphKernelNodeGetParams_v2(node, &mut params));
            assert_eq!(*(*params.kernelParams).cast::<u64>(), memory);
            assert_eq!(*(*params.kernelParams.add(1)).cast::<u32>(), 4);
            assert_eq!((params.func, params.blockDimX), (kernel, 32));
            AddOne { kernel, at: memory + 24, n: 1 }.with(|params| {
                ok(sys::cuGraphKernelNodeSetParams_v2(node, params));
            });
            launch(instantiate(graph));
            assert_eq!(words(memory, 8), [1, 1, 1, 1, 2, 2, 1, 0]);
            // The graph into the executable, as a whole.
            let mut info = std::mem::zeroed::<sys::CUgraphExecUpdateResultInfo>();
            ok(sys::cuGraphExecUpdate_v2(executable, graph, &mut info));
            launch(executable);
            assert_eq!(words(memory, 8), [1, 1, 1, 1, 2, 2, 2, 0]);
            // Of another shape it cannot be.
            let mut other = std::ptr::null_mut();
            ok(sys::cuGraphAddEmptyNode(&mut other, graph, &node, 1));
            let result = sys::cuGraphExecUpdate_v2(executable, graph, &mut info);
            assert_eq!(result, CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
            ok(sys::cuGraphNodeSetEnabled(executable, node, 0));
            launch(executable);
            assert_eq!(words(memory, 8), [1, 1, 1, 1, 2, 2, 2, 0]);
        }
    });
}

#[test]
fn copies_and_graphs_in_graphs() {
    virtual_gpu::run("graphs::copies_and_graphs_in_graphs", &options(), || {
        raw_context();
        let (memory, kernel) = (zeros(4), raw_kernel("add_one"));
        let inner = create();
        let (mut add, mut child) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: all pointers are to locals.
        unsafe {
            AddOne { kernel, at: memory, n: 4 }.with(|params| {
                ok(sys::cuGraphAddKernelNode_v2(&mut add, inner, std::ptr::null(), 0, params));
            });
            let mut clone = std::ptr::null_mut();
            ok(sys::cuGraphClone(&mut clone, inner));
            let mut same = std::ptr::null_mut();
            ok(sys::cuGraphNodeFindInClone(&mut same, add, clone));
            assert_ne!(same, add);
            let outer = create();
            ok(sys::cuGraphAddChildGraphNode(&mut child, outer, std::ptr::null(), 0, inner));
            let mut again = std::ptr::null_mut();
            ok(sys::cuGraphAddChildGraphNode(&mut again, outer, &child, 1, inner));
            // Neither copy knows that the original changes.
            AddOne { kernel, at: memory, n: 1 }.with(|params| {
                ok(sys::cuGraphKernelNodeSetParams_v2(add, params));
            });
            let executable = instantiate(outer);
            ok(sys::cuGraphDestroy(inner));
            ok(sys::cuGraphDestroy(outer));
            launch(executable);
            assert_eq!(words(memory, 4), [2; 4]);
            launch(instantiate(clone));
            assert_eq!(words(memory, 4), [3; 4]);
            let gone = sys::cuGraphDestroy(inner);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}
