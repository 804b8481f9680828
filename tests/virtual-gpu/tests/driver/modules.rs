//! Modules: text with and without its NUL, fat binaries, files, logs, variables, libraries.

use std::ffi::{CStr, CString, c_void};

use cudarc::driver::sys::{self, CUjit_option, CUresult};
use virtual_gpu::Options;

use crate::common::{KERNELS, ok, options, raw_context, stderr_of};

fn load(image: &[u8]) -> Result<sys::CUmodule, CUresult> {
    let mut module = std::ptr::null_mut();
    // SAFETY: the pointer is to a local; the driver looks for the image's end by itself.
    match unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) } {
        CUresult::CUDA_SUCCESS => Ok(module),
        error => Err(error),
    }
}

fn function(module: sys::CUmodule, name: &CStr) -> Result<sys::CUfunction, CUresult> {
    let mut function = std::ptr::null_mut();
    // SAFETY: the pointers are to locals.
    match unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) } {
        CUresult::CUDA_SUCCESS => Ok(function),
        error => Err(error),
    }
}

#[test]
fn functions_and_variables_by_name() {
    virtual_gpu::run("modules::functions_and_variables_by_name", &options(), || {
        raw_context();
        let text = CString::new(KERNELS).unwrap();
        let module = load(text.as_bytes_with_nul()).unwrap();
        let scale = function(module, c"scale").unwrap();
        assert_eq!(function(module, c"scale"), Ok(scale));
        assert_eq!(function(module, c"nothing"), Err(CUresult::CUDA_ERROR_NOT_FOUND));
        // SAFETY: all pointers are to locals.
        unsafe {
            let (mut address, mut bytes, mut value) = (0, 0, 0_u32);
            ok(sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"counter".as_ptr()));
            assert_eq!(bytes, 4);
            ok(sys::cuMemcpyDtoH_v2((&raw mut value).cast(), address, 4));
            assert_eq!(value, 7);
            let mut factors = [0.0_f32; 4];
            ok(sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"factors".as_ptr()));
            assert_eq!(bytes, 16);
            ok(sys::cuMemcpyDtoH_v2(factors.as_mut_ptr().cast(), address, 16));
            assert_eq!(factors, [1.0, 2.0, 3.0, 4.0]);
            let none = sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, module, c"x".as_ptr());
            assert_eq!(none, CUresult::CUDA_ERROR_NOT_FOUND);
            let mut value = 0;
            use sys::CUfunction_attribute::*;
            let bounded = function(module, c"at_most_64").unwrap();
            let code = CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
            ok(sys::cuFuncGetAttribute(&mut value, code, bounded));
            assert_eq!(value, 64);
            ok(sys::cuFuncGetAttribute(&mut value, CU_FUNC_ATTRIBUTE_BINARY_VERSION, scale));
            assert_eq!(value, 80);
            ok(sys::cuModuleUnload(module));
            let gone = sys::cuFuncGetAttribute(&mut value, code, scale);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuModuleUnload(module), CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}

#[test]
fn text_without_its_nul_is_told() {
    virtual_gpu::run("modules::text_without_its_nul_is_told", &options(), || {
        raw_context();
        let mut text = KERNELS.trim_end().as_bytes().to_vec();
        text.extend_from_slice(b"\n\x01\x02 garbage }");
        let told = stderr_of(|| {
            let module = load(&text).unwrap();
            function(module, c"reverse").unwrap();
        });
        assert!(told.contains("does not end with a NUL"), "{told}");
    });
}

#[test]
fn a_log_of_what_is_wrong() {
    virtual_gpu::run("modules::a_log_of_what_is_wrong", &options(), || {
        raw_context();
        let text = c".version 8.1\n.target sm_80\n.address_size 64\n\n.entry f()\n{ jump %r1; }\n";
        let mut log = vec![0xff_u8; 64];
        let mut codes = [
            CUjit_option::CU_JIT_TARGET,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 3] =
            [80 as *mut c_void, log.as_mut_ptr().cast(), 64 as *mut c_void];
        let mut module = std::ptr::null_mut();
        let told = stderr_of(|| {
            // SAFETY: all pointers are to locals.
            let result = unsafe {
                let (codes, values) = (codes.as_mut_ptr(), values.as_mut_ptr());
                sys::cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 3, codes, values)
            };
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
        });
        // The buffer is full: 63 bytes and a NUL. All of it is on stderr.
        let len = values[2] as usize;
        assert!(len < 64 && log[len] == 0, "{len}");
        let log = std::str::from_utf8(&log[..len]).unwrap();
        assert!(log.contains("line 6"), "{log}");
        assert!(told.contains("line 6") && told.contains("%r1"), "{told}");
    });
}

#[test]
fn no_images() {
    virtual_gpu::run("modules::no_images", &options(), || {
        raw_context();
        stderr_of(|| {
            assert_eq!(
                load(b"\x7fELF\x02\x01\x01\0\0\0"),
                Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU)
            );
            assert_eq!(load(&[0; 16]), Err(CUresult::CUDA_ERROR_INVALID_IMAGE));
            assert_eq!(load(b"some words; no PTX\0"), Err(CUresult::CUDA_ERROR_INVALID_PTX));
            let mut module = std::ptr::null_mut();
            // SAFETY: all pointers are null or to locals.
            unsafe {
                let none = sys::cuModuleLoadData(&mut module, std::ptr::null());
                assert_eq!(none, CUresult::CUDA_ERROR_INVALID_VALUE);
                let none = sys::cuModuleLoad(&mut module, c"/nowhere/k.ptx".as_ptr());
                assert_eq!(none, CUresult::CUDA_ERROR_FILE_NOT_FOUND);
            }
        });
    });
}

#[test]
fn text_for_a_later_device() {
    virtual_gpu::run("modules::text_for_a_later_device", &options(), || {
        raw_context();
        let text = |target: &str| {
            format!(".version 8.7\n.target {target}\n.address_size 64\n.entry f()\n{{ ret; }}\n\0")
        };
        let told = stderr_of(|| {
            for target in ["sm_86", "sm_90a", "sm_80a, debug"] {
                let result = load(text(target).as_bytes());
                let exact = target.contains("80a");
                assert_eq!(result.is_ok(), exact, "{target}");
                assert!(exact || result == Err(CUresult::CUDA_ERROR_INVALID_PTX));
            }
        });
        assert!(told.contains("does not run on sm_80"), "{told}");
    });
}

/// Variables of a module are in the device's memory too.
#[test]
fn a_module_larger_than_the_memory() {
    let options = Options { memory_bytes: 1 << 20, ..options() };
    virtual_gpu::run("modules::a_module_larger_than_the_memory", &options, || {
        raw_context();
        let text = |bytes: u32| {
            let head = ".version 8.1\n.target sm_80\n.address_size 64\n";
            format!("{head}.visible .global .align 4 .b8 table[{bytes}];\n\0")
        };
        stderr_of(|| {
            let result = load(text(2 << 20).as_bytes());
            assert_eq!(result, Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY));
        });
        // What is unloaded is free again.
        for _ in 0..4 {
            let module = load(text(600 << 10).as_bytes()).unwrap();
            // SAFETY: a module of this test.
            unsafe { ok(sys::cuModuleUnload(module)) };
        }
    });
}

#[test]
fn a_file_of_text() {
    virtual_gpu::run("modules::a_file_of_text", &options(), || {
        raw_context();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernels.ptx");
        std::fs::write(&path, KERNELS).unwrap();
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut module = std::ptr::null_mut();
        // SAFETY: the pointers are to locals.
        unsafe { ok(sys::cuModuleLoad(&mut module, path.as_ptr())) };
        function(module, c"scale").unwrap();
    });
}

/// A fat binary as the format's description has it: a header of 16 bytes, then entries of a header of 64
/// (kind 1 is PTX, version 0x101, its size at 4, the payload's at 8, the architecture at 28) and a payload.
fn fat_binary(texts: &[(u32, &str)]) -> Vec<u8> {
    let mut entries = Vec::new();
    for (architecture, text) in texts {
        let mut payload = text.as_bytes().to_vec();
        payload.resize((payload.len() + 1).next_multiple_of(8), 0);
        let mut header = [0_u8; 64];
        header[0..2].copy_from_slice(&1_u16.to_le_bytes());
        header[2..4].copy_from_slice(&0x101_u16.to_le_bytes());
        header[4..8].copy_from_slice(&64_u32.to_le_bytes());
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[28..32].copy_from_slice(&architecture.to_le_bytes());
        entries.extend_from_slice(&header);
        entries.extend_from_slice(&payload);
    }
    let mut all = Vec::new();
    all.extend_from_slice(&0xba55_ed50_u32.to_le_bytes());
    all.extend_from_slice(&1_u16.to_le_bytes());
    all.extend_from_slice(&16_u16.to_le_bytes());
    all.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    all.extend_from_slice(&entries);
    all
}

/// Texts for sm_80, 86 and 90, each with a kernel of its own name.
fn three() -> Vec<u8> {
    let text = |sm| {
        format!(
            ".version 8.1\n.target sm_{sm}\n.address_size 64\n.visible .entry k{sm}()\n{{ ret; }}\n"
        )
    };
    fat_binary(&[(80, &text(80)), (90, &text(90)), (86, &text(86))])
}

fn picks(name: &str, compute_capability: (u32, u32), kernel: &CStr) {
    virtual_gpu::run(name, &Options { compute_capability, ..options() }, || {
        raw_context();
        let binary = three();
        let module = load(&binary).unwrap();
        function(module, kernel).unwrap();
        // As nvcc puts it into a program: behind a wrapper of magic, version and address.
        let mut wrapper = [0_u8; 24];
        wrapper[0..4].copy_from_slice(&0x4662_43b1_u32.to_le_bytes());
        wrapper[4..8].copy_from_slice(&1_u32.to_le_bytes());
        let address = binary.as_ptr().expose_provenance() as u64;
        wrapper[8..16].copy_from_slice(&address.to_le_bytes());
        let mut module = std::ptr::null_mut();
        // SAFETY: the pointers are to locals.
        unsafe { ok(sys::cuModuleLoadFatBinary(&mut module, wrapper.as_ptr().cast())) };
        function(module, kernel).unwrap();
    });
}

#[test]
fn a_fat_binary_on_sm_80() {
    picks("modules::a_fat_binary_on_sm_80", (8, 0), c"k80");
}

#[test]
fn a_fat_binary_on_sm_89() {
    picks("modules::a_fat_binary_on_sm_89", (8, 9), c"k86");
}

#[test]
fn a_fat_binary_on_sm_120() {
    picks("modules::a_fat_binary_on_sm_120", (12, 0), c"k90");
}

#[test]
fn libraries_belong_to_no_context() {
    virtual_gpu::run("modules::libraries_belong_to_no_context", &options(), || {
        let text = CString::new(KERNELS).unwrap();
        // SAFETY: all pointers are null or to locals.
        unsafe {
            ok(sys::cuInit(0));
            let (mut library, mut kernel) = (std::ptr::null_mut(), std::ptr::null_mut());
            let null = std::ptr::null_mut::<c_void>();
            let code = text.as_ptr().cast();
            let (a, b, c, d) = (null.cast(), null.cast(), null.cast(), null.cast());
            ok(sys::cuLibraryLoadData(&mut library, code, a, b, 0, c, d, 0));
            ok(sys::cuLibraryGetKernel(&mut kernel, library, c"store".as_ptr()));
            let mut function = std::ptr::null_mut();
            let early = sys::cuKernelGetFunction(&mut function, kernel);
            assert_eq!(early, CUresult::CUDA_ERROR_INVALID_CONTEXT);
            raw_context();
            ok(sys::cuKernelGetFunction(&mut function, kernel));
            let (mut memory, mut value, mut got) = (0_u64, 3_u32, 0_u32);
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            let mut params: [*mut c_void; 2] = [(&raw mut memory).cast(), (&raw mut value).cast()];
            let (params, stream) = (params.as_mut_ptr(), std::ptr::null_mut());
            ok(sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, params, null.cast()));
            ok(sys::cuMemcpyDtoH_v2((&raw mut got).cast(), memory, 4));
            assert_eq!(got, 3);
            let (mut address, mut bytes) = (0, 0);
            ok(sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, c"counter".as_ptr()));
            assert_eq!(bytes, 4);
            ok(sys::cuLibraryUnload(library));
            let gone = sys::cuKernelGetFunction(&mut function, kernel);
            assert_eq!(gone, CUresult::CUDA_ERROR_INVALID_HANDLE);
        }
    });
}
