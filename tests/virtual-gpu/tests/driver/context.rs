//! Contexts: the primary one and others, what is current, what goes with them.

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUresult};

use crate::common::{ok, options, raw_context};

#[test]
fn retained_and_released() {
    virtual_gpu::run("context::retained_and_released", &options(), || {
        let state = || {
            let (mut flags, mut active) = (0, 0);
            // SAFETY: the pointers are to locals.
            unsafe { ok(sys::cuDevicePrimaryCtxGetState(0, &mut flags, &mut active)) };
            active
        };
        let first = CudaContext::new(0).unwrap();
        let second = CudaContext::new(0).unwrap();
        assert_eq!(first.cu_ctx(), second.cu_ctx());
        assert_eq!(state(), 1);
        drop(first);
        assert_eq!(state(), 1);
        drop(second);
        assert_eq!(state(), 0);
        // SAFETY: no pointers.
        let again = unsafe { sys::cuDevicePrimaryCtxRelease_v2(0) };
        assert_eq!(again, CUresult::CUDA_ERROR_INVALID_CONTEXT);
    });
}

#[test]
fn the_end_of_a_context_frees_its_memory() {
    virtual_gpu::run("context::the_end_of_a_context_frees_its_memory", &options(), || {
        // SAFETY: all pointers are to locals.
        unsafe {
            raw_context();
            let free = || {
                let (mut free, mut total) = (0, 0);
                ok(sys::cuMemGetInfo_v2(&mut free, &mut total));
                free
            };
            let before = free();
            let mut context = std::ptr::null_mut();
            ok(sys::cuCtxCreate_v2(&mut context, 0, 0));
            let (mut memory, mut stream) = (0, std::ptr::null_mut());
            ok(sys::cuMemAlloc_v2(&mut memory, 1 << 20));
            ok(sys::cuStreamCreate(&mut stream, 0));
            assert!(free() < before);
            ok(sys::cuCtxDestroy_v2(context));
            assert_eq!(free(), before);
            let gone = sys::cuStreamSynchronize(stream);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn the_stack_of_a_thread() {
    virtual_gpu::run("context::the_stack_of_a_thread", &options(), || {
        let current = || {
            let mut context = std::ptr::null_mut();
            // SAFETY: the pointer is to a local.
            unsafe { ok(sys::cuCtxGetCurrent(&mut context)) };
            context
        };
        let primary = raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let mut other = std::ptr::null_mut();
            ok(sys::cuCtxCreate_v2(&mut other, 0, 0));
            assert_eq!(current(), other);
            let mut popped = std::ptr::null_mut();
            ok(sys::cuCtxPopCurrent_v2(&mut popped));
            assert_eq!((popped, current()), (other, primary));
            ok(sys::cuCtxPushCurrent_v2(other));
            ok(sys::cuCtxDestroy_v2(other));
            assert_eq!(current(), primary);
            assert_eq!(sys::cuCtxSetCurrent(other), CUresult::CUDA_ERROR_INVALID_CONTEXT);
            // Another thread starts without one.
            let elsewhere = std::thread::spawn(move || {
                let mut context = 1 as sys::CUcontext;
                ok(sys::cuCtxGetCurrent(&mut context));
                let none = sys::cuCtxSynchronize();
                (context.is_null(), none)
            });
            assert_eq!(elsewhere.join().unwrap(), (true, CUresult::CUDA_ERROR_INVALID_CONTEXT));
        }
    });
}

#[test]
fn a_destroyed_context_of_another_thread_is_told() {
    virtual_gpu::run("context::a_destroyed_context_of_another_thread_is_told", &options(), || {
        // SAFETY: all pointers are to locals.
        unsafe {
            ok(sys::cuInit(0));
            let mut context = std::ptr::null_mut();
            ok(sys::cuCtxCreate_v2(&mut context, 0, 0));
            let address = context as usize;
            let destroyer = std::thread::spawn(move || {
                ok(sys::cuCtxDestroy_v2(address as sys::CUcontext));
            });
            destroyer.join().unwrap();
            let result = sys::cuCtxSynchronize();
            assert_eq!(result, CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED);
        }
    });
}

#[test]
fn limits_flags_and_priorities() {
    virtual_gpu::run("context::limits_flags_and_priorities", &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let limit = sys::CUlimit::CU_LIMIT_PRINTF_FIFO_SIZE;
            let mut value = 0;
            ok(sys::cuCtxSetLimit(limit, 4 << 20));
            ok(sys::cuCtxGetLimit(&mut value, limit));
            assert_eq!(value, 4 << 20);
            let (mut least, mut greatest) = (9, 9);
            ok(sys::cuCtxGetStreamPriorityRange(&mut least, &mut greatest));
            assert!(greatest < least && least == 0);
            let mut stream = std::ptr::null_mut();
            ok(sys::cuStreamCreateWithPriority(&mut stream, 1, greatest - 7));
            let (mut priority, mut flags) = (9, 9);
            ok(sys::cuStreamGetPriority(stream, &mut priority));
            ok(sys::cuStreamGetFlags(stream, &mut flags));
            assert_eq!((priority, flags), (greatest, 1));
            ok(sys::cuDevicePrimaryCtxSetFlags_v2(0, 4));
            let mut flags = 0;
            ok(sys::cuCtxGetFlags(&mut flags));
            assert_eq!(flags, 4);
        }
    });
}
