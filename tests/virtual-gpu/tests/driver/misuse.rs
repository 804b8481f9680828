//! Wrong handles, wrong order, null pointers: errors, never a crash.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};

use crate::common::{ok, options, raw_context, raw_kernel};

const INVALID_HANDLE: CUresult = CUresult::CUDA_ERROR_INVALID_HANDLE;
const INVALID_VALUE: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const NO_CONTEXT: CUresult = CUresult::CUDA_ERROR_INVALID_CONTEXT;

#[test]
fn made_up_handles() {
    virtual_gpu::run("misuse::made_up_handles", &options(), || {
        raw_context();
        // SAFETY: none of these handles is an object; pointers are to locals.
        unsafe {
            for handle in [3_usize, 0x1234_5678, usize::MAX, 4 << 48 | 16 << 40] {
                let handle = handle as *mut c_void;
                let stream: sys::CUstream = handle.cast();
                assert_eq!(sys::cuStreamSynchronize(stream), INVALID_HANDLE);
                assert_eq!(sys::cuStreamDestroy_v2(stream), INVALID_HANDLE);
                assert_eq!(sys::cuEventQuery(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuEventRecord(handle.cast(), stream), INVALID_HANDLE);
                assert_eq!(sys::cuModuleUnload(handle.cast()), INVALID_HANDLE);
                let mut value = 0;
                let code = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
                let result = sys::cuFuncGetAttribute(&mut value, code, handle.cast());
                assert_eq!(result, INVALID_HANDLE);
                assert_eq!(sys::cuGraphDestroy(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuGraphDestroyNode(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuGraphExecDestroy(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuGraphLaunch(handle.cast(), std::ptr::null_mut()), INVALID_HANDLE);
                assert_eq!(sys::cuLinkDestroy(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuMemPoolDestroy(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuLibraryUnload(handle.cast()), INVALID_HANDLE);
                assert_eq!(sys::cuCtxSetCurrent(handle.cast()), NO_CONTEXT);
                assert_eq!(sys::cuCtxDestroy_v2(handle.cast()), NO_CONTEXT);
                let null = std::ptr::null_mut();
                let result = sys::cuLaunchKernel(
                    handle.cast(),
                    1,
                    1,
                    1,
                    1,
                    1,
                    1,
                    0,
                    null,
                    null.cast(),
                    null.cast(),
                );
                assert_eq!(result, INVALID_HANDLE);
            }
            ok(sys::cuCtxSynchronize());
        }
    });
}

#[test]
fn handles_of_another_kind_or_destroyed() {
    virtual_gpu::run("misuse::handles_of_another_kind_or_destroyed", &options(), || {
        raw_context();
        let kernel = raw_kernel("trap_now");
        // SAFETY: pointers are to locals.
        unsafe {
            let (mut stream, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
            ok(sys::cuStreamCreate(&mut stream, 0));
            ok(sys::cuEventCreate(&mut event, 0));
            assert_eq!(sys::cuStreamSynchronize(event.cast()), INVALID_HANDLE);
            assert_eq!(sys::cuEventQuery(stream.cast()), INVALID_HANDLE);
            assert_eq!(sys::cuModuleUnload(kernel.cast()), INVALID_HANDLE);
            ok(sys::cuStreamDestroy_v2(stream));
            ok(sys::cuEventDestroy_v2(event));
            assert_eq!(sys::cuStreamDestroy_v2(stream), INVALID_HANDLE);
            assert_eq!(sys::cuEventDestroy_v2(event), INVALID_HANDLE);
            assert_eq!(sys::cuEventRecord(event, std::ptr::null_mut()), INVALID_HANDLE);
        }
    });
}

#[test]
fn before_init_and_without_a_context() {
    virtual_gpu::run("misuse::before_init_and_without_a_context", &options(), || {
        // SAFETY: pointers are to locals.
        unsafe {
            let early = CUresult::CUDA_ERROR_NOT_INITIALIZED;
            let (mut memory, mut context) = (0, std::ptr::null_mut());
            assert_eq!(sys::cuMemAlloc_v2(&mut memory, 4), early);
            assert_eq!(sys::cuDevicePrimaryCtxRetain(&mut context, 0), early);
            assert_eq!(sys::cuCtxSynchronize(), early);
            ok(sys::cuInit(0));
            assert_eq!(sys::cuMemAlloc_v2(&mut memory, 4), NO_CONTEXT);
            assert_eq!(sys::cuCtxSynchronize(), NO_CONTEXT);
            assert_eq!(sys::cuStreamSynchronize(std::ptr::null_mut()), NO_CONTEXT);
            assert_eq!(sys::cuMemcpy(1, 2, 3), NO_CONTEXT);
            let mut popped = std::ptr::null_mut();
            assert_eq!(sys::cuCtxPopCurrent_v2(&mut popped), NO_CONTEXT);
        }
    });
}

#[test]
fn null_pointers() {
    virtual_gpu::run("misuse::null_pointers", &options(), || {
        raw_context();
        let (add_one, null) = (raw_kernel("add_one"), std::ptr::null_mut::<c_void>());
        // SAFETY: what is null is refused before it is followed.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            assert_eq!(sys::cuDeviceGetCount(null.cast()), INVALID_VALUE);
            assert_eq!(sys::cuDeviceGetName(null.cast(), 10, 0), INVALID_VALUE);
            assert_eq!(sys::cuMemAlloc_v2(null.cast(), 4), INVALID_VALUE);
            assert_eq!(sys::cuMemAlloc_v2(&mut memory, 0), INVALID_VALUE);
            assert_eq!(sys::cuMemcpyHtoD_v2(memory, null, 4), INVALID_VALUE);
            assert_eq!(sys::cuMemcpyDtoH_v2(null, memory, 4), INVALID_VALUE);
            assert_eq!(sys::cuMemcpy2D_v2(null.cast()), INVALID_VALUE);
            assert_eq!(sys::cuStreamCreate(null.cast(), 0), INVALID_VALUE);
            assert_eq!(sys::cuEventCreate(null.cast(), 0), INVALID_VALUE);
            assert_eq!(sys::cuModuleLoadData(null.cast(), c"x".as_ptr().cast()), INVALID_VALUE);
            assert_eq!(sys::cuGraphCreate(null.cast(), 0), INVALID_VALUE);
            assert_eq!(sys::cuMemHostAlloc(null.cast(), 4, 0), INVALID_VALUE);
            // No parameters for a kernel that has some, and one of them null.
            let launch = |params: *mut *mut c_void| {
                let stream = std::ptr::null_mut();
                sys::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 0, stream, params, null.cast())
            };
            assert_eq!(launch(null.cast()), INVALID_VALUE);
            let mut params: [*mut c_void; 2] = [(&raw mut memory).cast(), null];
            assert_eq!(launch(params.as_mut_ptr()), INVALID_VALUE);
            // Freeing nothing, and copying nothing, is fine.
            ok(sys::cuMemFree_v2(0));
            ok(sys::cuMemcpyHtoD_v2(memory, null, 0));
            ok(sys::cuCtxSynchronize());
        }
    });
}
