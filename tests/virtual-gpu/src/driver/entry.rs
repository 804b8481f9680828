//! Finding the driver's functions by name: cuGetProcAddress.
//!
//! A name stands for several functions, whose arguments changed with the versions of CUDA: a program
//! says which version it was written for. Numbers: CUDA driver API, "Driver Entry Point Access", and the
//! versions in the names of the function types in cudaTypedefs.h.

use std::ffi::{CStr, CString, c_char, c_void};

use super::abi::{Host, Out, Text, call};
use super::error::{Error, Result};

/// Names whose later version has another symbol: (name, [(from this version of CUDA, symbol)]).
/// All other names are their own symbol.
#[rustfmt::skip]
const VERSIONS: &[(&str, &[(i32, &str)])] = &[
    ("cuArray3DCreate", &[(3020, "cuArray3DCreate_v2")]),
    ("cuArray3DGetDescriptor", &[(3020, "cuArray3DGetDescriptor_v2")]),
    ("cuArrayCreate", &[(3020, "cuArrayCreate_v2")]),
    ("cuArrayGetDescriptor", &[(3020, "cuArrayGetDescriptor_v2")]),
    ("cuCtxCreate", &[(3020, "cuCtxCreate_v2"), (11040, "cuCtxCreate_v3"), (12050, "cuCtxCreate_v4")]),
    ("cuCtxDestroy", &[(4000, "cuCtxDestroy_v2")]),
    ("cuCtxPopCurrent", &[(4000, "cuCtxPopCurrent_v2")]),
    ("cuCtxPushCurrent", &[(4000, "cuCtxPushCurrent_v2")]),
    ("cuDeviceGetUuid", &[(11040, "cuDeviceGetUuid_v2")]),
    ("cuDevicePrimaryCtxRelease", &[(11000, "cuDevicePrimaryCtxRelease_v2")]),
    ("cuDevicePrimaryCtxReset", &[(11000, "cuDevicePrimaryCtxReset_v2")]),
    ("cuDevicePrimaryCtxSetFlags", &[(11000, "cuDevicePrimaryCtxSetFlags_v2")]),
    ("cuDeviceTotalMem", &[(3020, "cuDeviceTotalMem_v2")]),
    ("cuEventDestroy", &[(4000, "cuEventDestroy_v2")]),
    ("cuEventElapsedTime", &[(12080, "cuEventElapsedTime_v2")]),
    ("cuGetProcAddress", &[(12000, "cuGetProcAddress_v2")]),
    ("cuGraphAddDependencies", &[(12030, "cuGraphAddDependencies_v2")]),
    ("cuGraphAddKernelNode", &[(12000, "cuGraphAddKernelNode_v2")]),
    ("cuGraphAddNode", &[(12030, "cuGraphAddNode_v2")]),
    ("cuGraphExecKernelNodeSetParams", &[(12000, "cuGraphExecKernelNodeSetParams_v2")]),
    ("cuGraphExecUpdate", &[(12000, "cuGraphExecUpdate_v2")]),
    ("cuGraphGetEdges", &[(12030, "cuGraphGetEdges_v2")]),
    ("cuGraphInstantiate", &[(11000, "cuGraphInstantiate_v2"), (12000, "cuGraphInstantiateWithFlags")]),
    ("cuGraphKernelNodeGetParams", &[(12000, "cuGraphKernelNodeGetParams_v2")]),
    ("cuGraphKernelNodeSetParams", &[(12000, "cuGraphKernelNodeSetParams_v2")]),
    ("cuGraphNodeGetDependencies", &[(12030, "cuGraphNodeGetDependencies_v2")]),
    ("cuGraphNodeGetDependentNodes", &[(12030, "cuGraphNodeGetDependentNodes_v2")]),
    ("cuGraphRemoveDependencies", &[(12030, "cuGraphRemoveDependencies_v2")]),
    ("cuGraphicsResourceGetMappedPointer", &[(3020, "cuGraphicsResourceGetMappedPointer_v2")]),
    ("cuGraphicsResourceSetMapFlags", &[(6050, "cuGraphicsResourceSetMapFlags_v2")]),
    ("cuIpcOpenMemHandle", &[(11000, "cuIpcOpenMemHandle_v2")]),
    ("cuLinkAddData", &[(6050, "cuLinkAddData_v2")]),
    ("cuLinkAddFile", &[(6050, "cuLinkAddFile_v2")]),
    ("cuLinkCreate", &[(6050, "cuLinkCreate_v2")]),
    ("cuMemAdvise", &[(12020, "cuMemAdvise_v2")]),
    ("cuMemAlloc", &[(3020, "cuMemAlloc_v2")]),
    ("cuMemAllocHost", &[(3020, "cuMemAllocHost_v2")]),
    ("cuMemAllocPitch", &[(3020, "cuMemAllocPitch_v2")]),
    ("cuMemFree", &[(3020, "cuMemFree_v2")]),
    ("cuMemGetAddressRange", &[(3020, "cuMemGetAddressRange_v2")]),
    ("cuMemGetInfo", &[(3020, "cuMemGetInfo_v2")]),
    ("cuMemHostGetDevicePointer", &[(3020, "cuMemHostGetDevicePointer_v2")]),
    ("cuMemHostRegister", &[(6050, "cuMemHostRegister_v2")]),
    ("cuMemPrefetchAsync", &[(12020, "cuMemPrefetchAsync_v2")]),
    ("cuMemcpy2D", &[(3020, "cuMemcpy2D_v2")]),
    ("cuMemcpy2DAsync", &[(3020, "cuMemcpy2DAsync_v2")]),
    ("cuMemcpy2DUnaligned", &[(3020, "cuMemcpy2DUnaligned_v2")]),
    ("cuMemcpy3D", &[(3020, "cuMemcpy3D_v2")]),
    ("cuMemcpy3DAsync", &[(3020, "cuMemcpy3DAsync_v2")]),
    ("cuMemcpyAtoA", &[(3020, "cuMemcpyAtoA_v2")]),
    ("cuMemcpyAtoD", &[(3020, "cuMemcpyAtoD_v2")]),
    ("cuMemcpyAtoH", &[(3020, "cuMemcpyAtoH_v2")]),
    ("cuMemcpyAtoHAsync", &[(3020, "cuMemcpyAtoHAsync_v2")]),
    ("cuMemcpyDtoA", &[(3020, "cuMemcpyDtoA_v2")]),
    ("cuMemcpyDtoD", &[(3020, "cuMemcpyDtoD_v2")]),
    ("cuMemcpyDtoDAsync", &[(3020, "cuMemcpyDtoDAsync_v2")]),
    ("cuMemcpyDtoH", &[(3020, "cuMemcpyDtoH_v2")]),
    ("cuMemcpyDtoHAsync", &[(3020, "cuMemcpyDtoHAsync_v2")]),
    ("cuMemcpyHtoA", &[(3020, "cuMemcpyHtoA_v2")]),
    ("cuMemcpyHtoAAsync", &[(3020, "cuMemcpyHtoAAsync_v2")]),
    ("cuMemcpyHtoD", &[(3020, "cuMemcpyHtoD_v2")]),
    ("cuMemcpyHtoDAsync", &[(3020, "cuMemcpyHtoDAsync_v2")]),
    ("cuMemsetD16", &[(3020, "cuMemsetD16_v2")]),
    ("cuMemsetD2D16", &[(3020, "cuMemsetD2D16_v2")]),
    ("cuMemsetD2D32", &[(3020, "cuMemsetD2D32_v2")]),
    ("cuMemsetD2D8", &[(3020, "cuMemsetD2D8_v2")]),
    ("cuMemsetD32", &[(3020, "cuMemsetD32_v2")]),
    ("cuMemsetD8", &[(3020, "cuMemsetD8_v2")]),
    ("cuModuleGetGlobal", &[(3020, "cuModuleGetGlobal_v2")]),
    ("cuStreamBatchMemOp", &[(11070, "cuStreamBatchMemOp_v2")]),
    ("cuStreamBeginCapture", &[(10010, "cuStreamBeginCapture_v2")]),
    ("cuStreamDestroy", &[(4000, "cuStreamDestroy_v2")]),
    ("cuStreamGetCaptureInfo", &[(11030, "cuStreamGetCaptureInfo_v2"), (12030, "cuStreamGetCaptureInfo_v3")]),
    ("cuStreamGetCtx", &[(12050, "cuStreamGetCtx_v2")]),
    ("cuStreamUpdateCaptureDependencies", &[(12030, "cuStreamUpdateCaptureDependencies_v2")]),
    ("cuStreamWaitValue32", &[(11070, "cuStreamWaitValue32_v2")]),
    ("cuStreamWaitValue64", &[(11070, "cuStreamWaitValue64_v2")]),
    ("cuStreamWriteValue32", &[(11070, "cuStreamWriteValue32_v2")]),
    ("cuStreamWriteValue64", &[(11070, "cuStreamWriteValue64_v2")]),
    ("cuTexRefGetAddress", &[(3020, "cuTexRefGetAddress_v2")]),
    ("cuTexRefSetAddress", &[(3020, "cuTexRefSetAddress_v2")]),
    ("cuTexRefSetAddress2D", &[(3020, "cuTexRefSetAddress2D_v2"), (4010, "cuTexRefSetAddress2D_v3")]),
];

/// The symbol that a name stands for in a version of CUDA.
fn symbol(name: &str, version: i32) -> &str {
    VERSIONS
        .iter()
        .find(|known| known.0 == name)
        .and_then(|known| known.1.iter().rev().find(|later| later.0 <= version))
        .map_or(name, |later| later.1)
}

/// CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM.
const PER_THREAD: u64 = 2;

/// Looks a symbol up in this very library.
fn find(name: &str) -> Option<Host> {
    let name = CString::new(name).ok()?;
    // SAFETY: `info` is filled by dladdr; the handle is of a library that is loaded, since this code is in
    // it, and both strings end with a NUL.
    let address = unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        let here = cuGetProcAddress as *const c_void;
        if libc::dladdr(here, &mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let flags = libc::RTLD_NOLOAD | libc::RTLD_LAZY;
        let library = libc::dlopen(CStr::from_ptr(info.dli_fname).as_ptr(), flags);
        if library.is_null() {
            return None;
        }
        let address = libc::dlsym(library, name.as_ptr());
        libc::dlclose(library);
        address
    };
    (!address.is_null()).then(|| Host::at(address.expose_provenance() as u64))
}

fn address(name: &str, version: i32, flags: u64) -> Result<Host> {
    if flags > PER_THREAD || !name.starts_with("cu") {
        return Err(Error::InvalidValue);
    }
    let symbol = symbol(name, version);
    let per_thread = (flags == PER_THREAD)
        .then(|| find(&format!("{symbol}_ptsz")).or_else(|| find(&format!("{symbol}_ptds"))))
        .flatten();
    per_thread.or_else(|| find(symbol)).ok_or(Error::NotFound)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress(name: Text, out: Out<Host>, version: i32, flags: u64) -> u32 {
    call("cuGetProcAddress", || {
        out.put(Host::at(0))?;
        out.put(address(&name.get()?, version, flags)?)
    })
}

/// As the first version, with what was wrong: 0 for nothing, 1 for no such symbol.
#[unsafe(no_mangle)]
extern "C" fn cuGetProcAddress_v2(
    name: Text,
    out: Out<Host>,
    version: i32,
    flags: u64,
    status: Out<u32>,
) -> u32 {
    call("cuGetProcAddress_v2", || {
        out.put(Host::at(0))?;
        let found = address(&name.get()?, version, flags);
        status.put_if_wanted(u32::from(found == Err(Error::NotFound)));
        out.put(found?)
    })
}

/// Tables of functions that have no names, which NVIDIA's own libraries share.
#[unsafe(no_mangle)]
extern "C" fn cuGetExportTable(out: Out<*const c_char>, _id: Host) -> u32 {
    call("cuGetExportTable", || {
        out.put_if_wanted(std::ptr::null());
        super::abi::tell("cuGetExportTable", "not implemented: NVIDIA's own libraries need it");
        Err(Error::NotSupported)
    })
}

#[cfg(test)]
mod tests {
    use super::symbol;

    #[test]
    fn a_name_is_the_latest_that_the_program_knows() {
        assert_eq!(symbol("cuMemAlloc", 12010), "cuMemAlloc_v2");
        assert_eq!(symbol("cuMemAlloc", 2000), "cuMemAlloc");
        assert_eq!(symbol("cuCtxCreate", 12010), "cuCtxCreate_v3");
        assert_eq!(symbol("cuCtxCreate", 12050), "cuCtxCreate_v4");
        assert_eq!(symbol("cuGraphInstantiate", 12000), "cuGraphInstantiateWithFlags");
        assert_eq!(symbol("cuLaunchKernel", 12010), "cuLaunchKernel");
    }
}
