//! Faults of kernels: told once on stderr, then returned by every call of the context.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};
use virtual_gpu::{Options, Watch};

use crate::common::{ok, options, raw_context, raw_kernel, stderr_of};

/// Launches one thread of `store` to an address, or a kernel without parameters.
fn launch(name: &str, mut address: u64) -> CUresult {
    let kernel = raw_kernel(name);
    let mut value = 1_u32;
    let mut params: [*mut c_void; 2] = [(&raw mut address).cast(), (&raw mut value).cast()];
    let (stream, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the parameters are locals of the kernel's sizes.
    unsafe { sys::cuLaunchKernel(kernel, 1, 1, 1, 1, 1, 1, 0, stream, params.as_mut_ptr(), extra) }
}

fn sticky(name: &str, kernel: &'static str, offset: Option<u64>, want: CUresult) {
    virtual_gpu::run(name, &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 256));
            let told = stderr_of(|| {
                ok(launch(kernel, offset.map_or(0, |offset| memory + offset)));
            });
            assert!(told.contains(kernel) && told.contains("PTX line"), "{told}");
            let mut word = 0_u32;
            for _ in 0..2 {
                assert_eq!(sys::cuCtxSynchronize(), want);
                assert_eq!(sys::cuStreamSynchronize(std::ptr::null_mut()), want);
                assert_eq!(sys::cuMemcpyDtoH_v2((&raw mut word).cast(), memory, 4), want);
                let mut more = 0;
                assert_eq!(sys::cuMemAlloc_v2(&mut more, 4), want);
            }
            // Who is current can still be asked, and the device is good again after a reset.
            let mut context = std::ptr::null_mut();
            ok(sys::cuCtxGetCurrent(&mut context));
            assert_eq!(sys::cuMemFree_v2(memory), want);
            ok(sys::cuDevicePrimaryCtxReset_v2(0));
            ok(sys::cuCtxSynchronize());
            ok(sys::cuMemAlloc_v2(&mut memory, 256));
            ok(launch("store", memory));
            ok(sys::cuMemcpyDtoH_v2((&raw mut word).cast(), memory, 4));
            assert_eq!(word, 1);
        }
    });
}

#[test]
fn out_of_bounds() {
    let want = CUresult::CUDA_ERROR_ILLEGAL_ADDRESS;
    sticky("faults::out_of_bounds", "store", Some(256), want);
}

#[test]
fn null() {
    sticky("faults::null", "store", None, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
}

#[test]
fn misaligned() {
    let want = CUresult::CUDA_ERROR_MISALIGNED_ADDRESS;
    sticky("faults::misaligned", "store", Some(2), want);
}

#[test]
fn trap() {
    sticky("faults::trap", "trap_now", Some(0), CUresult::CUDA_ERROR_LAUNCH_FAILED);
}

/// VIRTUAL_GPU_FAULT_AT: the launches before it are done, it is not, and the context is lost.
#[test]
fn asked_for() {
    let options = Options { fault_at: Some(2), ..options() };
    virtual_gpu::run("faults::asked_for", &options, || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let (mut memory, mut word) = (0, 0_u32);
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            ok(launch("store", memory));
            ok(sys::cuMemcpyDtoH_v2((&raw mut word).cast(), memory, 4));
            assert_eq!(word, 1);
            let told = stderr_of(|| ok(launch("store", memory)));
            assert!(told.contains("VIRTUAL_GPU_FAULT_AT"), "{told}");
            for _ in 0..2 {
                assert_eq!(sys::cuCtxSynchronize(), CUresult::CUDA_ERROR_LAUNCH_FAILED);
            }
            // Once only: after a reset the device is good again.
            ok(sys::cuDevicePrimaryCtxReset_v2(0));
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            ok(launch("store", memory));
            ok(sys::cuCtxSynchronize());
        }
    });
}

#[test]
fn use_after_free() {
    virtual_gpu::run("faults::use_after_free", &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 256));
            ok(sys::cuMemFree_v2(memory));
            let told = stderr_of(|| ok(launch("store", memory)));
            assert!(told.contains("UseAfterFree"), "{told}");
            assert_eq!(sys::cuCtxSynchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
    });
}

/// A read of memory that nothing has written is no fault of a GPU: the watchman makes it one, or only
/// tells, or sees nothing, as the environment says.
fn watched(name: &str, watch: Watch, fails: bool, tells: bool) {
    virtual_gpu::run(name, &Options { watch, ..options() }, || {
        raw_context();
        let add_one = raw_kernel("add_one");
        // SAFETY: all pointers are to locals of the kernel's sizes.
        unsafe {
            let (mut memory, mut n) = (0_u64, 1_u32);
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            let mut params: [*mut c_void; 2] = [(&raw mut memory).cast(), (&raw mut n).cast()];
            let (stream, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
            let told = stderr_of(|| {
                let params = params.as_mut_ptr();
                ok(sys::cuLaunchKernel(add_one, 1, 1, 1, 1, 1, 1, 0, stream, params, extra));
            });
            assert_eq!(told.contains("Uninitialised"), tells, "{told}");
            assert_eq!(sys::cuCtxSynchronize() != CUresult::CUDA_SUCCESS, fails);
        }
    });
}

#[test]
fn the_watchman_fails() {
    watched("faults::the_watchman_fails", Watch::Fail, true, true);
}

#[test]
fn the_watchman_reports() {
    watched("faults::the_watchman_reports", Watch::Report, false, true);
}

#[test]
fn the_watchman_is_off() {
    watched("faults::the_watchman_is_off", Watch::Off, false, false);
}

#[test]
fn cudarc_sees_it_too() {
    virtual_gpu::run("faults::cudarc_sees_it_too", &options(), || {
        let device = crate::common::device();
        let function = device.function("trap_now");
        let config = cudarc::driver::LaunchConfig::for_num_elems(1);
        // SAFETY: the kernel has no parameters.
        unsafe { device.stream.launch_builder(&function).launch(config).unwrap() };
        let error = device.stream.synchronize().unwrap_err();
        assert_eq!(error.0, CUresult::CUDA_ERROR_LAUNCH_FAILED);
    });
}
