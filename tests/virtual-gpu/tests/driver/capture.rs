//! Stream capture: what is recorded, what is forbidden, and that the forbidden ends the capture.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode as Mode, CUstreamCaptureStatus};
use cudarc::driver::{LaunchConfig, PushKernelArg};

use crate::common::{device, ok, options, raw_context, raw_kernel};

const ACTIVE: CUstreamCaptureStatus = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE;
const INVALIDATED: CUstreamCaptureStatus =
    CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_INVALIDATED;
const NONE: CUstreamCaptureStatus = CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;

#[test]
fn a_captured_graph_is_replayed_by_cudarc() {
    virtual_gpu::run("capture::a_captured_graph_is_replayed_by_cudarc", &options(), || {
        let device = device();
        let add_one = device.function("add_one");
        let stream = &device.stream;
        let mut data = stream.clone_htod(&[5_u32; 100]).unwrap();
        let mut copy = stream.alloc_zeros::<u32>(100).unwrap();
        // SAFETY: only one stream uses the memory.
        unsafe { device.context.disable_event_tracking() };
        stream.begin_capture(Mode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        assert_eq!(stream.capture_status().unwrap(), ACTIVE);
        for n in [100_u32, 50] {
            let mut launch = stream.launch_builder(&add_one);
            launch.arg(&mut data).arg(&n);
            // SAFETY: the kernel stays within `data`.
            unsafe { launch.launch(LaunchConfig::for_num_elems(n)).unwrap() };
        }
        stream.memcpy_dtod(&data, &mut copy).unwrap();
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();
        assert_eq!(stream.capture_status().unwrap(), NONE);
        // Nothing has run so far.
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [5; 100]);
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), [0; 100]);
        graph.upload().unwrap();
        for times in 1..4_u32 {
            graph.launch().unwrap();
            let want: Vec<u32> = (0..100).map(|i| 5 + times * if i < 50 { 2 } else { 1 }).collect();
            assert_eq!(stream.clone_dtoh(&copy).unwrap(), want);
        }
    });
}

/// Two streams of the current context, and memory of four words.
fn setting() -> ([sys::CUstream; 2], u64) {
    raw_context();
    let (mut streams, mut memory) = ([std::ptr::null_mut(); 2], 0);
    // SAFETY: all pointers are to locals.
    unsafe {
        for stream in &mut streams {
            ok(sys::cuStreamCreate(stream, 1));
        }
        ok(sys::cuMemAlloc_v2(&mut memory, 16));
    }
    (streams, memory)
}

fn begin(stream: sys::CUstream, mode: Mode) {
    // SAFETY: a stream of this process.
    ok(unsafe { sys::cuStreamBeginCapture_v2(stream, mode) });
}

fn end(stream: sys::CUstream) -> Result<sys::CUgraph, CUresult> {
    let mut graph = 1 as sys::CUgraph;
    // SAFETY: the pointer is to a local.
    match unsafe { sys::cuStreamEndCapture(stream, &mut graph) } {
        CUresult::CUDA_SUCCESS => Ok(graph),
        error => {
            assert!(graph.is_null());
            Err(error)
        }
    }
}

fn status(stream: sys::CUstream) -> CUstreamCaptureStatus {
    let mut status = NONE;
    // SAFETY: the pointer is to a local.
    ok(unsafe { sys::cuStreamIsCapturing(stream, &mut status) });
    status
}

#[test]
fn events_fork_and_join() {
    virtual_gpu::run("capture::events_fork_and_join", &options(), || {
        let ([first, second], memory) = setting();
        let kernel = raw_kernel("add_one");
        // SAFETY: all pointers are to locals; the kernel stays within the memory.
        unsafe {
            let (mut fork, mut join) = (std::ptr::null_mut(), std::ptr::null_mut());
            ok(sys::cuEventCreate(&mut fork, 2));
            ok(sys::cuEventCreate(&mut join, 2));
            begin(first, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL);
            ok(sys::cuMemsetD32Async(memory, 7, 4, first));
            ok(sys::cuEventRecord(fork, first));
            ok(sys::cuStreamWaitEvent(second, fork, 0));
            assert_eq!(status(second), ACTIVE);
            for (stream, at) in [(first, memory), (second, memory + 8)] {
                let (mut at, mut n) = (at, 2_u32);
                let mut params: [*mut c_void; 2] = [(&raw mut at).cast(), (&raw mut n).cast()];
                let (params, extra) = (params.as_mut_ptr(), std::ptr::null_mut());
                ok(sys::cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, stream, params, extra));
            }
            // Without the join, the capture would not end well: see `unjoined`.
            ok(sys::cuEventRecord(join, second));
            ok(sys::cuStreamWaitEvent(first, join, 0));
            ok(sys::cuMemsetD32Async(memory + 4, 1, 1, first));
            let graph = end(first).unwrap();
            assert_eq!((status(first), status(second)), (NONE, NONE));
            let (mut nodes, mut roots, mut edges) = (0, 0, 0);
            let null = std::ptr::null_mut();
            ok(sys::cuGraphGetNodes(graph, null, &mut nodes));
            ok(sys::cuGraphGetRootNodes(graph, null, &mut roots));
            ok(sys::cuGraphGetEdges(graph, null, null, &mut edges));
            // One fill before two kernels before one fill.
            assert_eq!((nodes, roots, edges), (4, 1, 4));
            let mut executable = std::ptr::null_mut();
            ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
            ok(sys::cuGraphLaunch(executable, second));
            let mut got = [0_u32; 4];
            ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 16));
            assert_eq!(got, [8, 1, 8, 8]);
            // An event of a capture that is over is of no use outside.
            let result = sys::cuStreamWaitEvent(second, fork, 0);
            assert_eq!(result, CUresult::CUDA_ERROR_CAPTURED_EVENT);
        }
    });
}

/// Begins a capture, does what is forbidden, and sees the capture end by it.
fn forbidden(
    name: &str,
    mode: Mode,
    want: CUresult,
    at_end: CUresult,
    what: impl FnOnce([sys::CUstream; 2], u64) -> CUresult,
) {
    virtual_gpu::run(name, &options(), || {
        let (streams, memory) = setting();
        begin(streams[0], mode);
        // SAFETY: the memory has room for it.
        ok(unsafe { sys::cuMemsetD32Async(memory, 1, 1, streams[0]) });
        assert_eq!(what(streams, memory), want);
        if at_end == CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED {
            assert_eq!(status(streams[0]), INVALIDATED);
            // SAFETY: the memory has room for it.
            let more = unsafe { sys::cuMemsetD32Async(memory, 1, 1, streams[0]) };
            assert_eq!(more, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        }
        let ended = end(streams[0]).err().unwrap_or(CUresult::CUDA_SUCCESS);
        assert_eq!(ended, at_end);
        assert_eq!(status(streams[0]), NONE);
        // The stream is good for other work.
        // SAFETY: the memory has room for it.
        ok(unsafe { sys::cuMemsetD32Async(memory, 1, 1, streams[0]) });
    });
}

const GLOBAL: Mode = Mode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const RELAXED: Mode = Mode::CU_STREAM_CAPTURE_MODE_RELAXED;
const UNSUPPORTED: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
const INVALID: CUresult = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;

#[test]
fn waiting() {
    forbidden("capture::waiting", RELAXED, UNSUPPORTED, INVALID, |[stream, _], _| {
        // SAFETY: no pointers.
        unsafe { sys::cuStreamSynchronize(stream) }
    });
}

#[test]
fn asking() {
    forbidden("capture::asking", RELAXED, UNSUPPORTED, INVALID, |[stream, _], _| {
        // SAFETY: no pointers.
        unsafe { sys::cuStreamQuery(stream) }
    });
}

#[test]
fn waiting_for_the_context() {
    let name = "capture::waiting_for_the_context";
    // SAFETY: no pointers.
    forbidden(name, RELAXED, UNSUPPORTED, INVALID, |_, _| unsafe { sys::cuCtxSynchronize() });
}

#[test]
fn allocating() {
    forbidden("capture::allocating", GLOBAL, UNSUPPORTED, INVALID, |_, _| {
        let mut memory = 0;
        // SAFETY: the pointer is to a local.
        unsafe { sys::cuMemAlloc_v2(&mut memory, 4) }
    });
}

#[test]
fn allocating_is_allowed_when_relaxed() {
    let (name, fine) = ("capture::allocating_is_allowed_when_relaxed", CUresult::CUDA_SUCCESS);
    forbidden(name, RELAXED, fine, fine, |_, _| {
        let mut memory = 0;
        // SAFETY: the pointer is to a local.
        unsafe { sys::cuMemAlloc_v2(&mut memory, 4) }
    });
}

#[test]
fn a_thread_may_say_that_it_knows() {
    let (name, fine) = ("capture::a_thread_may_say_that_it_knows", CUresult::CUDA_SUCCESS);
    forbidden(name, GLOBAL, fine, fine, |_, _| {
        let (mut mode, mut memory) = (RELAXED, 0);
        // SAFETY: the pointers are to locals.
        unsafe {
            ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
            assert_eq!(mode, GLOBAL);
            let result = sys::cuMemAlloc_v2(&mut memory, 4);
            ok(sys::cuThreadExchangeStreamCaptureMode(&mut mode));
            assert_eq!(mode, RELAXED);
            result
        }
    });
}

#[test]
fn copying_at_once() {
    forbidden("capture::copying_at_once", GLOBAL, UNSUPPORTED, INVALID, |_, memory| {
        let mut word = 0_u32;
        // SAFETY: the pointer is to a local.
        unsafe { sys::cuMemcpyDtoH_v2((&raw mut word).cast(), memory, 4) }
    });
}

#[test]
fn an_event_from_outside() {
    let isolation = CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
    let name = "capture::an_event_from_outside";
    forbidden(name, RELAXED, isolation, INVALID, |[stream, other], _| {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        unsafe {
            ok(sys::cuEventCreate(&mut event, 2));
            ok(sys::cuEventRecord(event, other));
            sys::cuStreamWaitEvent(stream, event, 0)
        }
    });
}

#[test]
fn asking_for_a_captured_event() {
    let captured = CUresult::CUDA_ERROR_CAPTURED_EVENT;
    let name = "capture::asking_for_a_captured_event";
    forbidden(name, RELAXED, captured, INVALID, |[stream, _], _| {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        unsafe {
            ok(sys::cuEventCreate(&mut event, 2));
            ok(sys::cuEventRecord(event, stream));
            sys::cuEventSynchronize(event)
        }
    });
}

#[test]
fn unjoined() {
    let unjoined = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    let name = "capture::unjoined";
    forbidden(name, RELAXED, CUresult::CUDA_SUCCESS, unjoined, |[stream, other], memory| {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local; the memory has room.
        unsafe {
            ok(sys::cuEventCreate(&mut event, 2));
            ok(sys::cuEventRecord(event, stream));
            ok(sys::cuStreamWaitEvent(other, event, 0));
            sys::cuMemsetD32Async(memory, 2, 1, other)
        }
    });
}

#[test]
fn ending_where_it_did_not_begin() {
    let unmatched = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
    let name = "capture::ending_where_it_did_not_begin";
    forbidden(name, RELAXED, unmatched, INVALID, |[stream, other], _| {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        unsafe {
            ok(sys::cuEventCreate(&mut event, 2));
            ok(sys::cuEventRecord(event, stream));
            ok(sys::cuStreamWaitEvent(other, event, 0));
        }
        end(other).unwrap_err()
    });
}

#[test]
fn two_captures_do_not_meet() {
    virtual_gpu::run("capture::two_captures_do_not_meet", &options(), || {
        let ([first, second], _) = setting();
        begin(first, RELAXED);
        begin(second, RELAXED);
        // SAFETY: the pointer is to a local.
        let result = unsafe {
            let mut event = std::ptr::null_mut();
            ok(sys::cuEventCreate(&mut event, 2));
            ok(sys::cuEventRecord(event, second));
            sys::cuStreamWaitEvent(first, event, 0)
        };
        assert_eq!(result, CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE);
        assert_eq!((end(first), end(second)), (Err(INVALID), Err(INVALID)));
    });
}

#[test]
fn the_legacy_stream_would_wait() {
    virtual_gpu::run("capture::the_legacy_stream_would_wait", &options(), || {
        let (_, memory) = setting();
        let (mut blocking, legacy) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the pointer is to a local; the memory has room.
        unsafe {
            ok(sys::cuStreamCreate(&mut blocking, 0));
            let result = sys::cuStreamBeginCapture_v2(legacy, RELAXED);
            assert_eq!(result, UNSUPPORTED);
            begin(blocking, RELAXED);
            let result = sys::cuMemsetD32Async(memory, 1, 1, legacy);
            assert_eq!(result, CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
        assert_eq!(end(blocking), Err(INVALID));
        assert_eq!(end(blocking), Err(CUresult::CUDA_ERROR_ILLEGAL_STATE));
    });
}

#[test]
fn only_its_thread_ends_a_capture() {
    virtual_gpu::run("capture::only_its_thread_ends_a_capture", &options(), || {
        let ([stream, _], _) = setting();
        begin(stream, GLOBAL);
        let handle = stream as usize;
        let elsewhere = std::thread::spawn(move || end(handle as sys::CUstream).unwrap_err());
        let wrong = CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
        assert_eq!(elsewhere.join().unwrap(), wrong);
        end(stream).unwrap();
    });
}

#[test]
fn memory_of_a_graph() {
    virtual_gpu::run("capture::memory_of_a_graph", &options(), || {
        let ([stream, _], memory) = setting();
        // SAFETY: all pointers are to locals; the memory has room.
        unsafe {
            let free = || {
                let (mut free, mut total) = (0, 0);
                ok(sys::cuMemGetInfo_v2(&mut free, &mut total));
                free
            };
            let before = free();
            begin(stream, GLOBAL);
            let mut own = 0;
            ok(sys::cuMemAllocAsync(&mut own, 16, stream));
            ok(sys::cuMemsetD32Async(own, 9, 4, stream));
            ok(sys::cuMemcpyDtoDAsync_v2(memory, own, 16, stream));
            // What a graph did not allocate it does not free.
            let other = sys::cuMemFreeAsync(memory, stream);
            assert_eq!(other, CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuMemFreeAsync(own, stream));
            let graph = end(stream).unwrap();
            let mut executable = std::ptr::null_mut();
            ok(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0));
            for _ in 0..2 {
                ok(sys::cuMemsetD32_v2(memory, 0, 4));
                ok(sys::cuGraphLaunch(executable, stream));
                let mut got = [0_u32; 4];
                ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 16));
                assert_eq!(got, [9; 4]);
            }
            ok(sys::cuGraphDestroy(graph));
            assert!(free() < before);
            ok(sys::cuGraphExecDestroy(executable));
            assert_eq!(free(), before);
        }
    });
}

#[test]
fn what_is_known_of_a_capture() {
    virtual_gpu::run("capture::what_is_known_of_a_capture", &options(), || {
        let ([stream, _], memory) = setting();
        // SAFETY: all pointers are to locals; the dependencies are good until the next call.
        unsafe {
            let (mut id, mut graph, mut count) = (0, std::ptr::null_mut(), 0);
            let mut after: *const sys::CUgraphNode = std::ptr::null();
            let mut info = || {
                let mut status = NONE;
                let (id, graph, count) = (&mut id, &mut graph, &mut count);
                let after = &mut after;
                ok(sys::cuStreamGetCaptureInfo_v2(stream, &mut status, id, graph, after, count));
                let nodes =
                    if *count == 0 { &[] } else { std::slice::from_raw_parts(*after, *count) };
                (status, *graph, nodes.to_vec())
            };
            assert_eq!(info().0, NONE);
            begin(stream, GLOBAL);
            let (now, graph, nodes) = info();
            assert_eq!((now, nodes.len()), (ACTIVE, 0));
            ok(sys::cuMemsetD32Async(memory, 9, 4, stream));
            let (_, same, nodes) = info();
            assert_eq!((same, nodes.len()), (graph, 1));
            // A node of the program's own, put into the capture by hand.
            let mut node = std::ptr::null_mut();
            ok(sys::cuGraphAddEmptyNode(&mut node, graph, nodes.as_ptr(), 1));
            ok(sys::cuStreamUpdateCaptureDependencies(stream, &mut node, 1, 1));
            assert_eq!(info().2, [node]);
            assert_eq!(end(stream), Ok(graph));
            let mut before = 0;
            ok(sys::cuGraphNodeGetDependencies(node, std::ptr::null_mut(), &mut before));
            assert_eq!(before, 1);
        }
    });
}
