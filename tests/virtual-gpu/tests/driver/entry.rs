//! Functions by name: cuGetProcAddress, and what is there by name alone.

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, CUresult};

use crate::common::{ok, options, raw_context, stderr_of, symbol};

fn address(name: &str, version: i32, flags: u64) -> Result<usize, CUresult> {
    let name = CString::new(name).unwrap();
    let mut found: *mut c_void = std::ptr::null_mut();
    // SAFETY: the pointers are null or to locals.
    let result = unsafe {
        let status = std::ptr::null_mut();
        sys::cuGetProcAddress_v2(name.as_ptr(), &mut found, version, flags, status)
    };
    if result == CUresult::CUDA_SUCCESS { Ok(found as usize) } else { Err(result) }
}

#[test]
fn the_version_that_a_program_knows() {
    virtual_gpu::run("entry::the_version_that_a_program_knows", &options(), || {
        let new = address("cuMemAlloc", 12010, 0).unwrap();
        assert_eq!(address("cuMemAlloc_v2", 12010, 0), Ok(new));
        assert_ne!(address("cuMemAlloc", 2000, 0), Ok(new));
        let legacy = address("cuLaunchKernel", 12010, 1).unwrap();
        let own = address("cuLaunchKernel", 12010, 2).unwrap();
        assert_ne!(own, legacy);
        assert_eq!(address("cuLaunchKernel_ptsz", 12010, 0), Ok(own));
        assert_eq!(address("cuNothing", 12010, 0), Err(CUresult::CUDA_ERROR_NOT_FOUND));
        assert_eq!(address("malloc", 12010, 0), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        // SAFETY: the function's type.
        unsafe {
            type Version = unsafe extern "C" fn(&mut i32) -> CUresult;
            let version: Version = symbol("cuDriverGetVersion");
            let mut value = 0;
            ok(version(&mut value));
            assert_eq!(value, 12090);
        }
    });
}

#[test]
fn what_is_not_implemented_says_so() {
    virtual_gpu::run("entry::what_is_not_implemented_says_so", &options(), || {
        raw_context();
        let told = stderr_of(|| {
            let mut array = std::ptr::null_mut();
            // SAFETY: a stub does not look at its arguments.
            let result = unsafe { sys::cuArray3DCreate_v2(&mut array, std::ptr::null()) };
            assert_eq!(result, CUresult::CUDA_ERROR_NOT_SUPPORTED);
            let mut table = std::ptr::null();
            // SAFETY: the pointers are null or to locals.
            let result = unsafe { sys::cuGetExportTable(&mut table, std::ptr::null()) };
            assert_eq!(result, CUresult::CUDA_ERROR_NOT_SUPPORTED);
        });
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains("cuArray3DCreate_v2") && told.contains("cuGetExportTable"), "{told}");
    });
}

/// The null stream of these functions is the thread's own, which can be captured.
#[test]
fn the_null_stream_of_a_thread() {
    virtual_gpu::run("entry::the_null_stream_of_a_thread", &options(), || {
        raw_context();
        // SAFETY: the functions' types; pointers are to locals.
        unsafe {
            type Begin = unsafe extern "C" fn(usize, u32) -> CUresult;
            type End = unsafe extern "C" fn(usize, &mut usize) -> CUresult;
            let begin: Begin = symbol("cuStreamBeginCapture_v2");
            assert_eq!(begin(0, 2), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            let begin: Begin = symbol("cuStreamBeginCapture_v2_ptsz");
            let end: End = symbol("cuStreamEndCapture_ptsz");
            ok(begin(0, 2));
            let mut graph = 0;
            ok(end(2, &mut graph));
            assert_ne!(graph, 0);
        }
    });
}

#[test]
fn every_code_has_a_name_and_a_meaning() {
    virtual_gpu::run("entry::every_code_has_a_name_and_a_meaning", &options(), || {
        use cudarc::driver::DriverError;
        for (code, name) in [
            (CUresult::CUDA_SUCCESS, "CUDA_SUCCESS"),
            (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"),
            (CUresult::CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"),
            (CUresult::CUDA_ERROR_UNKNOWN, "CUDA_ERROR_UNKNOWN"),
        ] {
            assert_eq!(DriverError(code).error_name().unwrap().to_str(), Ok(name));
            assert!(!DriverError(code).error_string().unwrap().is_empty());
        }
        type Name = unsafe extern "C" fn(u32, &mut *const i8) -> CUresult;
        let mut text = std::ptr::null();
        // SAFETY: the function's type, with a number that no CUresult has.
        let unknown = unsafe { symbol::<Name>("cuGetErrorName")(12345, &mut text) };
        assert_eq!(unknown, CUresult::CUDA_ERROR_INVALID_VALUE);
        assert!(text.is_null());
    });
}
