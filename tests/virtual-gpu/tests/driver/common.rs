//! What the tests share: a context with the test kernels, raw results, what is said on stderr.

use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream};
use virtual_gpu::Options;

pub const KERNELS: &str = include_str!("kernels.ptx");

/// A device on two host threads, whatever the machine has.
pub fn options() -> Options {
    Options { threads: 2, ..Options::default() }
}

pub struct Device {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub module: Arc<CudaModule>,
}

/// The device with the test kernels loaded, and a stream of its own.
pub fn device() -> Device {
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let module = context.load_module(KERNELS.into()).unwrap();
    Device { context, stream, module }
}

impl Device {
    pub fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }
}

/// The context that is current, made so, for tests of the raw interface.
pub fn raw_context() -> sys::CUcontext {
    // SAFETY: all pointers are to locals.
    unsafe {
        ok(sys::cuInit(0));
        let mut context = std::ptr::null_mut();
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxSetCurrent(context));
        context
    }
}

/// A kernel of the test kernels, in the current context.
pub fn raw_kernel(name: &str) -> sys::CUfunction {
    let (text, name) = (CString::new(KERNELS).unwrap(), CString::new(name).unwrap());
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the text ends with a NUL, and all pointers are to locals.
    unsafe {
        ok(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()));
        ok(sys::cuModuleGetFunction(&mut function, module, name.as_ptr()));
    }
    function
}

#[track_caller]
pub fn ok(result: CUresult) {
    assert_eq!(result, CUresult::CUDA_SUCCESS);
}

/// What is written to stderr, by this process's libraries too, while `body` runs.
pub fn stderr_of(body: impl FnOnce()) -> String {
    use std::io::{Read, Seek};
    let mut file = tempfile::tempfile().unwrap();
    // SAFETY: descriptors of this process, put back before the end.
    let kept = unsafe {
        let kept = libc::dup(2);
        assert!(kept >= 0 && libc::dup2(file.as_raw_fd(), 2) == 2);
        kept
    };
    body();
    // SAFETY: as above.
    unsafe {
        libc::dup2(kept, 2);
        libc::close(kept);
    }
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// A function that cudarc's bindings for CUDA 12.1 do not have, by its name.
///
/// # Safety
/// `F` is the function's type.
pub unsafe fn symbol<F: Copy>(name: &str) -> F {
    let name = CString::new(name).unwrap();
    let mut found: *mut std::ffi::c_void = std::ptr::null_mut();
    // SAFETY: all pointers are to locals, and a function's pointer is as large as any.
    unsafe {
        let none = std::ptr::null_mut();
        ok(sys::cuGetProcAddress_v2(name.as_ptr(), &mut found, 13000, 0, none));
        std::mem::transmute_copy(&found)
    }
}
