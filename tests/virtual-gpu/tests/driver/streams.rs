//! Streams and events: order, callbacks, modelled time, many threads.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};

use crate::common::{device, ok, options, raw_context, raw_kernel};

#[test]
fn events_order_streams_and_tell_modelled_time() {
    virtual_gpu::run("streams::events_order_streams_and_tell_modelled_time", &options(), || {
        let device = device();
        let other = device.context.new_stream().unwrap();
        let add_one = device.function("add_one");
        let mut data = device.stream.alloc_zeros::<u32>(1000).unwrap();
        let timed = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let start = device.stream.record_event(timed).unwrap();
        let mut time_of = |launches: u32| {
            let before = device.stream.record_event(timed).unwrap();
            for _ in 0..launches {
                let n = 1000_u32;
                let mut launch = device.stream.launch_builder(&add_one);
                launch.arg(&mut data).arg(&n);
                // SAFETY: the kernel stays within `data`.
                unsafe { launch.launch(LaunchConfig::for_num_elems(n)).unwrap() };
            }
            let after = device.stream.record_event(timed).unwrap();
            before.elapsed_ms(&after).unwrap()
        };
        let (none, one, three) = (time_of(0), time_of(1), time_of(3));
        assert!(none == 0.0 && one > 0.0, "{none} {one}");
        // The same launches take the same modelled time.
        assert!((three / one - 3.0).abs() < f32::EPSILON * 8.0, "{one} {three}");
        let end = device.stream.record_event(timed).unwrap();
        other.wait(&end).unwrap();
        assert!(end.is_complete());
        end.synchronize().unwrap();
        assert!(start.elapsed_ms(&end).unwrap() >= one + three);
        assert!(end.elapsed_ms(&start).unwrap() < 0.0);
        assert_eq!(other.clone_dtoh(&data).unwrap(), vec![4; 1000]);
    });
}

#[test]
fn an_event_without_timing_or_never_recorded_tells_none() {
    let name = "streams::an_event_without_timing_or_never_recorded_tells_none";
    virtual_gpu::run(name, &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let (mut plain, mut untimed) = (std::ptr::null_mut(), std::ptr::null_mut());
            ok(sys::cuEventCreate(&mut plain, 0));
            ok(sys::cuEventCreate(&mut untimed, 2));
            // Never recorded: nothing to wait for.
            ok(sys::cuEventQuery(plain));
            ok(sys::cuStreamWaitEvent(std::ptr::null_mut(), plain, 0));
            let mut ms = 0.0;
            let result = sys::cuEventElapsedTime(&mut ms, plain, plain);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_HANDLE);
            ok(sys::cuEventRecord(plain, std::ptr::null_mut()));
            ok(sys::cuEventRecord(untimed, std::ptr::null_mut()));
            ok(sys::cuEventElapsedTime(&mut ms, plain, plain));
            let result = sys::cuEventElapsedTime(&mut ms, plain, untimed);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

unsafe extern "C" fn count(data: *mut c_void) {
    // SAFETY: the tests give a counter that outlives the call.
    unsafe { &*data.cast::<AtomicU32>() }.fetch_add(1, Ordering::Relaxed);
}

unsafe extern "C" fn count_callback(_stream: sys::CUstream, result: CUresult, data: *mut c_void) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
    // SAFETY: as above.
    unsafe { count(data) }
}

#[test]
fn host_functions_run_in_their_place() {
    virtual_gpu::run("streams::host_functions_run_in_their_place", &options(), || {
        raw_context();
        let counter = AtomicU32::new(0);
        let data = (&raw const counter).cast_mut().cast();
        // SAFETY: the counter outlives the calls, whose work is done when they return.
        unsafe {
            let mut stream = std::ptr::null_mut();
            ok(sys::cuStreamCreate(&mut stream, 1));
            ok(sys::cuLaunchHostFunc(stream, Some(count), data));
            ok(sys::cuStreamAddCallback(stream, Some(count_callback), data, 0));
            ok(sys::cuStreamSynchronize(stream));
            assert_eq!(counter.load(Ordering::Relaxed), 2);
            let none = sys::cuLaunchHostFunc(stream, None, data);
            assert_eq!(none, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn the_streams_that_are_always_there() {
    virtual_gpu::run("streams::the_streams_that_are_always_there", &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let id = |handle: usize| {
                let mut id = 0;
                ok(sys::cuStreamGetId(handle as sys::CUstream, &mut id));
                id
            };
            assert_eq!(id(0), id(1));
            let own = id(2);
            assert_ne!(id(0), own);
            let context = {
                let mut context = std::ptr::null_mut();
                ok(sys::cuCtxGetCurrent(&mut context));
                context as usize
            };
            let theirs = std::thread::spawn(move || {
                ok(sys::cuCtxSetCurrent(context as sys::CUcontext));
                let mut id = 0;
                ok(sys::cuStreamGetId(2 as sys::CUstream, &mut id));
                id
            });
            assert_ne!(theirs.join().unwrap(), own);
        }
    });
}

#[test]
fn many_threads_at_once() {
    virtual_gpu::run("streams::many_threads_at_once", &options(), || {
        let device = device();
        let threads: Vec<_> = (0..8_u32)
            .map(|thread| {
                let (context, function) = (device.context.clone(), device.function("add_one"));
                std::thread::spawn(move || {
                    let stream = context.new_stream().unwrap();
                    let n = 500_u32;
                    let mut data = stream.clone_htod(&vec![thread; n as usize]).unwrap();
                    for _ in 0..20 {
                        let mut launch = stream.launch_builder(&function);
                        launch.arg(&mut data).arg(&n);
                        // SAFETY: the kernel stays within `data`.
                        unsafe { launch.launch(LaunchConfig::for_num_elems(n)).unwrap() };
                    }
                    assert_eq!(stream.clone_dtoh(&data).unwrap(), vec![thread + 20; n as usize]);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        drop(device);
        CudaContext::new(0).unwrap().synchronize().unwrap();
    });
}

/// A word that a stream writes lies in host memory, where it can still be read after a fault, and tells how
/// far the stream came.
#[test]
fn a_word_is_written_in_the_order_of_the_stream() {
    virtual_gpu::run("streams::a_word_is_written_in_the_order_of_the_stream", &options(), || {
        raw_context();
        let write = |at, value, flags| {
            let stream = std::ptr::null_mut();
            // SAFETY: the driver checks the address.
            unsafe { sys::cuStreamWriteValue32_v2(stream, at, value, flags) }
        };
        let mut word = std::ptr::null_mut();
        let mut at = 0;
        // SAFETY: all pointers are to locals; two words are allocated.
        unsafe {
            ok(sys::cuMemHostAlloc(&mut word, 8, sys::CU_MEMHOSTALLOC_DEVICEMAP));
            ok(sys::cuMemHostGetDevicePointer_v2(&mut at, word, 0));
        }
        // SAFETY: the driver's memory lives until the process ends.
        let read = || unsafe { word.cast::<u32>().read_volatile() };
        ok(write(at, 7, 0));
        assert_eq!(read(), 7);
        ok(write(at, 8, 1));
        assert_eq!(read(), 8);
        assert_eq!(write(at, 9, 2), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(write(at + 1, 9, 0), CUresult::CUDA_ERROR_INVALID_VALUE);
        assert_eq!(write(at + 8, 9, 0), CUresult::CUDA_ERROR_INVALID_VALUE);

        let kernel = raw_kernel("store");
        let (mut nowhere, mut value) = (0_u64, 1_u32);
        let mut params: [*mut c_void; 2] = [(&raw mut nowhere).cast(), (&raw mut value).cast()];
        let (stream, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the parameters are locals of the kernel's sizes.
        unsafe {
            ok(sys::cuLaunchKernel(
                kernel,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                stream,
                params.as_mut_ptr(),
                extra,
            ));
        }
        assert_eq!(write(at, 10, 0), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert_eq!(read(), 8);
    });
}
