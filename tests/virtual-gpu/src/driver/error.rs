//! The driver's results: numbers, names and what they mean.
//!
//! Numbers and names are those of the CUDA driver API, "Data types used by CUDA driver", CUresult;
//! the meanings are in our words.

use std::ffi::{CStr, c_char};

use super::abi::{Out, call};

pub type Result<T = ()> = std::result::Result<T, Error>;

/// What a call of the driver can fail with, as far as this driver does. The discriminant is the CUresult.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Error {
    InvalidValue = 1,
    OutOfMemory = 2,
    NotInitialized = 3,
    NoDevice = 100,
    InvalidDevice = 101,
    InvalidImage = 200,
    InvalidContext = 201,
    NoBinaryForGpu = 209,
    UnsupportedLimit = 215,
    InvalidPtx = 218,
    FileNotFound = 301,
    InvalidHandle = 400,
    IllegalState = 401,
    NotFound = 500,
    IllegalAddress = 700,
    LaunchOutOfResources = 701,
    ContextIsDestroyed = 709,
    Assert = 710,
    HostMemoryAlreadyRegistered = 712,
    HostMemoryNotRegistered = 713,
    IllegalInstruction = 715,
    MisalignedAddress = 716,
    LaunchFailed = 719,
    CooperativeLaunchTooLarge = 720,
    NotSupported = 801,
    StreamCaptureUnsupported = 900,
    StreamCaptureInvalidated = 901,
    StreamCaptureMerge = 902,
    StreamCaptureUnmatched = 903,
    StreamCaptureUnjoined = 904,
    StreamCaptureIsolation = 905,
    StreamCaptureImplicit = 906,
    CapturedEvent = 907,
    StreamCaptureWrongThread = 908,
    GraphExecUpdateFailure = 910,
    Unknown = 999,
}

/// Every CUresult: number, name, meaning.
const RESULTS: &[(u32, &CStr, &CStr)] = &[
    (0, c"CUDA_SUCCESS", c"no error"),
    (1, c"CUDA_ERROR_INVALID_VALUE", c"a value or pointer is not valid"),
    (2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (3, c"CUDA_ERROR_NOT_INITIALIZED", c"cuInit has not been called"),
    (4, c"CUDA_ERROR_DEINITIALIZED", c"the driver is shutting down"),
    (5, c"CUDA_ERROR_PROFILER_DISABLED", c"the profiler is disabled"),
    (6, c"CUDA_ERROR_PROFILER_NOT_INITIALIZED", c"the profiler is not initialised"),
    (7, c"CUDA_ERROR_PROFILER_ALREADY_STARTED", c"the profiler was started already"),
    (8, c"CUDA_ERROR_PROFILER_ALREADY_STOPPED", c"the profiler was stopped already"),
    (34, c"CUDA_ERROR_STUB_LIBRARY", c"the library is a stub"),
    (46, c"CUDA_ERROR_DEVICE_UNAVAILABLE", c"the device is unavailable"),
    (100, c"CUDA_ERROR_NO_DEVICE", c"there is no device"),
    (101, c"CUDA_ERROR_INVALID_DEVICE", c"no such device"),
    (102, c"CUDA_ERROR_DEVICE_NOT_LICENSED", c"the device is not licensed"),
    (200, c"CUDA_ERROR_INVALID_IMAGE", c"not a kernel image"),
    (201, c"CUDA_ERROR_INVALID_CONTEXT", c"no valid context is current"),
    (202, c"CUDA_ERROR_CONTEXT_ALREADY_CURRENT", c"the context is current already"),
    (205, c"CUDA_ERROR_MAP_FAILED", c"mapping failed"),
    (206, c"CUDA_ERROR_UNMAP_FAILED", c"unmapping failed"),
    (207, c"CUDA_ERROR_ARRAY_IS_MAPPED", c"the array is mapped"),
    (208, c"CUDA_ERROR_ALREADY_MAPPED", c"mapped already"),
    (209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"the image holds no code for this device"),
    (210, c"CUDA_ERROR_ALREADY_ACQUIRED", c"acquired already"),
    (211, c"CUDA_ERROR_NOT_MAPPED", c"not mapped"),
    (212, c"CUDA_ERROR_NOT_MAPPED_AS_ARRAY", c"not mapped as an array"),
    (213, c"CUDA_ERROR_NOT_MAPPED_AS_POINTER", c"not mapped as a pointer"),
    (214, c"CUDA_ERROR_ECC_UNCORRECTABLE", c"an uncorrectable memory error"),
    (215, c"CUDA_ERROR_UNSUPPORTED_LIMIT", c"no such limit"),
    (216, c"CUDA_ERROR_CONTEXT_ALREADY_IN_USE", c"the context is in use elsewhere"),
    (217, c"CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", c"the devices cannot reach each other's memory"),
    (218, c"CUDA_ERROR_INVALID_PTX", c"the PTX could not be compiled"),
    (219, c"CUDA_ERROR_INVALID_GRAPHICS_CONTEXT", c"not a valid graphics context"),
    (220, c"CUDA_ERROR_NVLINK_UNCORRECTABLE", c"an uncorrectable NVLink error"),
    (221, c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"no PTX compiler was found"),
    (222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the PTX is of a later version than the driver"),
    (223, c"CUDA_ERROR_JIT_COMPILATION_DISABLED", c"compiling PTX is disabled"),
    (224, c"CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", c"no such execution affinity"),
    (
        225,
        c"CUDA_ERROR_UNSUPPORTED_DEVSIDE_SYNC",
        c"the kernel synchronises on the device, which is not supported",
    ),
    (226, c"CUDA_ERROR_CONTAINED", c"a contained error"),
    (300, c"CUDA_ERROR_INVALID_SOURCE", c"not a valid source"),
    (301, c"CUDA_ERROR_FILE_NOT_FOUND", c"no such file"),
    (302, c"CUDA_ERROR_SHARED_OBJECT_SYMBOL_NOT_FOUND", c"a shared object lacks a symbol"),
    (303, c"CUDA_ERROR_SHARED_OBJECT_INIT_FAILED", c"a shared object could not be initialised"),
    (304, c"CUDA_ERROR_OPERATING_SYSTEM", c"a call of the operating system failed"),
    (400, c"CUDA_ERROR_INVALID_HANDLE", c"not a valid handle, or destroyed"),
    (401, c"CUDA_ERROR_ILLEGAL_STATE", c"the object's state does not allow this"),
    (402, c"CUDA_ERROR_LOSSY_QUERY", c"the query would lose information"),
    (500, c"CUDA_ERROR_NOT_FOUND", c"nothing of that name"),
    (600, c"CUDA_ERROR_NOT_READY", c"not finished yet"),
    (700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"a kernel reached an address that is not its own"),
    (
        701,
        c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
        c"the launch asks for more than a multiprocessor has",
    ),
    (702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch took too long"),
    (703, c"CUDA_ERROR_LAUNCH_INCOMPATIBLE_TEXTURING", c"incompatible texturing mode"),
    (704, c"CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", c"peer access is enabled already"),
    (705, c"CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", c"peer access is not enabled"),
    (708, c"CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE", c"the primary context is active"),
    (709, c"CUDA_ERROR_CONTEXT_IS_DESTROYED", c"the context was destroyed"),
    (710, c"CUDA_ERROR_ASSERT", c"a kernel's assertion failed"),
    (711, c"CUDA_ERROR_TOO_MANY_PEERS", c"too many peers"),
    (712, c"CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED", c"the host memory is registered already"),
    (713, c"CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED", c"the host memory is not registered"),
    (714, c"CUDA_ERROR_HARDWARE_STACK_ERROR", c"a stack error of the hardware"),
    (715, c"CUDA_ERROR_ILLEGAL_INSTRUCTION", c"an illegal instruction"),
    (716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"a misaligned address"),
    (717, c"CUDA_ERROR_INVALID_ADDRESS_SPACE", c"an address of the wrong state space"),
    (718, c"CUDA_ERROR_INVALID_PC", c"the program counter went astray"),
    (719, c"CUDA_ERROR_LAUNCH_FAILED", c"a kernel failed"),
    (
        720,
        c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        c"the cooperative grid does not fit on the device at once",
    ),
    (721, c"CUDA_ERROR_TENSOR_MEMORY_LEAK", c"tensor memory was not freed"),
    (800, c"CUDA_ERROR_NOT_PERMITTED", c"not permitted"),
    (801, c"CUDA_ERROR_NOT_SUPPORTED", c"not supported"),
    (802, c"CUDA_ERROR_SYSTEM_NOT_READY", c"the system is not ready"),
    (803, c"CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", c"driver and system do not match"),
    (
        804,
        c"CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
        c"not supported on this device in compatibility mode",
    ),
    (805, c"CUDA_ERROR_MPS_CONNECTION_FAILED", c"no connection to MPS"),
    (806, c"CUDA_ERROR_MPS_RPC_FAILURE", c"an MPS call failed"),
    (807, c"CUDA_ERROR_MPS_SERVER_NOT_READY", c"the MPS server is not ready"),
    (808, c"CUDA_ERROR_MPS_MAX_CLIENTS_REACHED", c"too many MPS clients"),
    (809, c"CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED", c"too many MPS connections"),
    (810, c"CUDA_ERROR_MPS_CLIENT_TERMINATED", c"MPS ended the client"),
    (811, c"CUDA_ERROR_CDP_NOT_SUPPORTED", c"device-side launches are not supported"),
    (812, c"CUDA_ERROR_CDP_VERSION_MISMATCH", c"device-side launches of another version"),
    (900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"not allowed while a stream is capturing"),
    (901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"an earlier error ended the capture"),
    (902, c"CUDA_ERROR_STREAM_CAPTURE_MERGE", c"the call would merge two captures"),
    (903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"the capture was not begun on this stream"),
    (
        904,
        c"CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
        c"a forked stream was not joined to the capture's first one",
    ),
    (905, c"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", c"a dependency would cross the capture's border"),
    (906, c"CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", c"the legacy stream would wait for a capture"),
    (907, c"CUDA_ERROR_CAPTURED_EVENT", c"the event was last recorded in a capture"),
    (908, c"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", c"the capture was begun by another thread"),
    (909, c"CUDA_ERROR_TIMEOUT", c"timed out"),
    (910, c"CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", c"the executable graph cannot be updated so"),
    (911, c"CUDA_ERROR_EXTERNAL_DEVICE", c"an external device failed"),
    (912, c"CUDA_ERROR_INVALID_CLUSTER_SIZE", c"not a valid cluster size"),
    (913, c"CUDA_ERROR_FUNCTION_NOT_LOADED", c"the function is not loaded"),
    (914, c"CUDA_ERROR_INVALID_RESOURCE_TYPE", c"not a valid resource type"),
    (915, c"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", c"not a valid resource configuration"),
    (916, c"CUDA_ERROR_KEY_ROTATION", c"keys are being rotated"),
    (999, c"CUDA_ERROR_UNKNOWN", c"an unknown error"),
];

fn known(result: u32) -> Result<&'static (u32, &'static CStr, &'static CStr)> {
    RESULTS.iter().find(|known| known.0 == result).ok_or(Error::InvalidValue)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(result: u32, name: Out<*const c_char>) -> u32 {
    call("cuGetErrorName", || match known(result) {
        Ok(known) => name.put(known.1.as_ptr()),
        Err(error) => name.put(std::ptr::null()).and(Err(error)),
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(result: u32, text: Out<*const c_char>) -> u32 {
    call("cuGetErrorString", || match known(result) {
        Ok(known) => text.put(known.2.as_ptr()),
        Err(error) => text.put(std::ptr::null()).and(Err(error)),
    })
}
