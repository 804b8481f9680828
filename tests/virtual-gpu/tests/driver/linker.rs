//! The JIT linker: several PTX texts made one image.

use std::ffi::{CString, c_void};

use cudarc::driver::sys::{self, CUjit_option, CUjitInputType, CUresult};

use crate::common::{ok, options, raw_context, stderr_of};

const HEADER: &str = ".version 8.1\n.target sm_80\n.address_size 64\n";

/// `result = twice(21) + table[0]`, with `twice` from elsewhere.
const CALLER: &str = "
.extern .func (.param .b32 out) twice(.param .b32 x);
.global .align 4 .u32 table = 100;
.visible .entry ask(.param .u64 result)
{
    .reg .b32 %r<4>;
    .reg .b64 %rd<3>;
    .param .b32 x;
    .param .b32 out;
    mov.u32 %r1, 21;
    st.param.b32 [x], %r1;
    call.uni (out), twice, (x);
    ld.param.b32 %r2, [out];
    ld.global.u32 %r3, [table];
    add.u32 %r2, %r2, %r3;
    ld.param.u64 %rd1, [result];
    cvta.to.global.u64 %rd2, %rd1;
    st.global.u32 [%rd2], %r2;
    ret;
}
";

/// It has a `table` of its own.
const CALLED: &str = "
.global .align 4 .u32 table = 1000;
.visible .func (.param .b32 out) twice(.param .b32 x)
{
    .reg .b32 %r<4>;
    ld.param.b32 %r1, [x];
    ld.global.u32 %r2, [table];
    add.u32 %r3, %r1, %r1;
    add.u32 %r3, %r3, %r2;
    st.param.b32 [out], %r3;
    ret;
}
";

fn add(link: sys::CUlinkState, text: &str, name: &str) -> CUresult {
    let (text, name) = (format!("{HEADER}{text}"), CString::new(name).unwrap());
    let kind = CUjitInputType::CU_JIT_INPUT_PTX;
    let data: *mut c_void = text.as_ptr().cast_mut().cast();
    let null = std::ptr::null_mut();
    // SAFETY: the text has no NUL and need not: its length is given.
    unsafe {
        sys::cuLinkAddData_v2(link, kind, data, text.len(), name.as_ptr(), 0, null, null.cast())
    }
}

fn create() -> sys::CUlinkState {
    let (mut link, null) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the pointer is to a local.
    unsafe { ok(sys::cuLinkCreate_v2(0, null, null.cast(), &mut link)) };
    link
}

#[test]
fn two_texts_make_one_module() {
    virtual_gpu::run("linker::two_texts_make_one_module", &options(), || {
        raw_context();
        let link = create();
        ok(add(link, CALLER, "caller.ptx"));
        ok(add(link, CALLED, "called.ptx"));
        // SAFETY: all pointers are to locals; the image is good until the linker is destroyed.
        unsafe {
            let (mut image, mut size) = (std::ptr::null_mut(), 0);
            ok(sys::cuLinkComplete(link, &mut image, &mut size));
            let copy = std::slice::from_raw_parts(image.cast::<u8>(), size).to_vec();
            ok(sys::cuLinkDestroy(link));
            let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
            ok(sys::cuModuleLoadData(&mut module, copy.as_ptr().cast()));
            ok(sys::cuModuleGetFunction(&mut function, module, c"ask".as_ptr()));
            let mut memory = 0_u64;
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            let mut params: [*mut c_void; 1] = [(&raw mut memory).cast()];
            let (params, null) = (params.as_mut_ptr(), std::ptr::null_mut::<c_void>());
            let (stream, extra) = (null, null.cast());
            ok(sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream.cast(), params, extra));
            let mut got = 0_u32;
            ok(sys::cuMemcpyDtoH_v2((&raw mut got).cast(), memory, 4));
            assert_eq!(got, 2 * 21 + 1000 + 100);
        }
    });
}

/// Links texts with a buffer for errors: the result, and what is in the buffer.
fn fails(texts: &[(&str, &str)]) -> (CUresult, String) {
    let mut log = vec![0xff_u8; 200];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), log.len() as *mut c_void];
    let mut link = std::ptr::null_mut();
    // SAFETY: all pointers are to locals, which outlive the linker.
    let result = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        ok(sys::cuLinkCreate_v2(2, options, values, &mut link));
        for (name, text) in texts {
            ok(add(link, text, name));
        }
        let (mut image, mut size) = (std::ptr::null_mut(), 0);
        let result = sys::cuLinkComplete(link, &mut image, &mut size);
        ok(sys::cuLinkDestroy(link));
        result
    };
    let len = values[1] as usize;
    assert_eq!(log[len], 0, "the log's length does not end at its NUL");
    (result, String::from_utf8(log[..len].to_vec()).unwrap())
}

#[test]
fn what_does_not_go_together_is_in_the_log() {
    virtual_gpu::run("linker::what_does_not_go_together_is_in_the_log", &options(), || {
        raw_context();
        let told = stderr_of(|| {
            let (result, log) = fails(&[("a.ptx", CALLED), ("b.ptx", CALLED)]);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
            assert!(log.contains("`twice` is defined in a.ptx and in b.ptx"), "{log}");
            let (result, log) = fails(&[("a.ptx", CALLER), ("b.ptx", "")]);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
            assert!(log.contains("`twice` is declared in a.ptx"), "{log}");
            let (result, log) = fails(&[("a.ptx", ".visible .entry f() { nonsense; }")]);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_PTX);
            assert!(log.contains("line 4") && log.contains("nonsense"), "{log}");
        });
        assert!(told.contains("nonsense"), "{told}");
        let (result, log) = fails(&[("a.ptx", CALLED)]);
        assert_eq!((result, log.as_str()), (CUresult::CUDA_SUCCESS, ""));
    });
}

#[test]
fn machine_code_is_refused() {
    virtual_gpu::run("linker::machine_code_is_refused", &options(), || {
        raw_context();
        let link = create();
        let mut elf = *b"\x7fELF and so on";
        let null = std::ptr::null_mut::<c_void>();
        let told = stderr_of(|| {
            let kind = CUjitInputType::CU_JIT_INPUT_CUBIN;
            // SAFETY: all pointers are to locals.
            let result = unsafe {
                let name = c"k.cubin".as_ptr();
                let (data, none) = (elf.as_mut_ptr().cast(), null.cast());
                sys::cuLinkAddData_v2(link, kind, data, elf.len(), name, 0, null.cast(), none)
            };
            assert_eq!(result, CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        });
        assert!(told.contains("k.cubin"), "{told}");
    });
}
