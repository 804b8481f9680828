//! The device: how many, its name, what it can, at each compute capability.

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use virtual_gpu::Options;

use crate::common::{ok, options};

#[test]
fn one_device_with_a_name_of_its_own() {
    virtual_gpu::run("device::one_device_with_a_name_of_its_own", &options(), || {
        assert_eq!(CudaContext::device_count(), Ok(1));
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "virtual GPU (sm_80)");
        assert_eq!(
            context.uuid().unwrap().bytes,
            CudaContext::new(0).unwrap().uuid().unwrap().bytes
        );
        let mut device = 0;
        // SAFETY: the pointer is to a local.
        let result = unsafe { sys::cuDeviceGet(&mut device, 1) };
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_DEVICE);
    });
}

/// Numbers: CUDA C++ Programming Guide, technical specifications per compute capability.
fn check(name: &str, compute_capability: (u32, u32), want: [i32; 4]) {
    let options = Options { compute_capability, multiprocessors: 17, ..options() };
    virtual_gpu::run(name, &options, || {
        let context = CudaContext::new(0).unwrap();
        let (major, minor) = context.compute_capability().unwrap();
        assert_eq!((major as u32, minor as u32), compute_capability);
        let attribute = |code| context.attribute(code).unwrap();
        let got = [
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR),
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR),
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR) >> 10,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN) >> 10,
        ];
        assert_eq!(got, want);
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 17);
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 1024);
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 48 << 10);
        assert_eq!(attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK), 65536);
        for yes in [
            Attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING,
            Attribute::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY,
            Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH,
            Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED,
            Attribute::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY,
        ] {
            assert_eq!(attribute(yes), 1, "{yes:?}");
        }
    });
}

/// What a program sees that was built for newer ones.
#[test]
fn an_old_card_and_an_old_driver() {
    let options = Options { compute_capability: (7, 5), driver: 11_080, ..options() };
    virtual_gpu::run("device::an_old_card_and_an_old_driver", &options, || {
        let mut version = 0;
        // SAFETY: the pointer is to a local. The version may be asked before anything else.
        ok(unsafe { sys::cuDriverGetVersion(&mut version) });
        assert_eq!(version, 11_080);
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.name().unwrap(), "virtual GPU (sm_75)");
        assert_eq!(context.compute_capability().unwrap(), (7, 5));
        // SAFETY: the pointer is to a local.
        ok(unsafe { sys::cuDriverGetVersion(&mut version) });
        assert_eq!(version, 11_080);
    });
}

#[test]
fn sm_80() {
    check("device::sm_80", (8, 0), [2048, 32, 164, 163]);
}

#[test]
fn sm_86() {
    check("device::sm_86", (8, 6), [1536, 16, 100, 99]);
}

#[test]
fn sm_89() {
    check("device::sm_89", (8, 9), [1536, 24, 100, 99]);
}

#[test]
fn sm_90() {
    check("device::sm_90", (9, 0), [2048, 32, 228, 227]);
}

#[test]
fn sm_120() {
    check("device::sm_120", (12, 0), [1536, 24, 100, 99]);
}

#[test]
fn memory_is_as_the_environment_says() {
    let options = Options { memory_bytes: 64 << 20, ..options() };
    virtual_gpu::run("device::memory_is_as_the_environment_says", &options, || {
        let context = CudaContext::new(0).unwrap();
        assert_eq!(context.total_mem().unwrap(), 64 << 20);
        let (free, total) = context.mem_get_info().unwrap();
        assert_eq!(total, 64 << 20);
        assert!(free <= total);
    });
}

#[test]
fn names_and_numbers_of_the_c_interface() {
    virtual_gpu::run("device::names_and_numbers_of_the_c_interface", &options(), || {
        // SAFETY: all pointers are to locals with room for what is written.
        unsafe {
            let mut version = 0;
            ok(sys::cuDriverGetVersion(&mut version));
            assert_eq!(version, 12090);
            // Before cuInit nothing else is known.
            let mut count = 0;
            let early = sys::cuDeviceGetCount(&mut count);
            assert_eq!(early, CUresult::CUDA_ERROR_NOT_INITIALIZED);
            assert_eq!(sys::cuInit(1), CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuInit(0));
            ok(sys::cuInit(0));
            let mut name = [1; 8];
            ok(sys::cuDeviceGetName(name.as_mut_ptr(), 8, 0));
            assert_eq!(name, [b'v', b'i', b'r', b't', b'u', b'a', b'l', 0].map(|c| c as i8));
            let mut id = [0; 16];
            ok(sys::cuDeviceGetPCIBusId(id.as_mut_ptr(), 16, 0));
            let mut device = -1;
            ok(sys::cuDeviceGetByPCIBusId(&mut device, id.as_ptr()));
            assert_eq!(device, 0);
            let mut properties = std::mem::zeroed::<sys::CUdevprop>();
            ok(sys::cuDeviceGetProperties(&mut properties, 0));
            assert_eq!(properties.maxThreadsPerBlock, 1024);
            assert_eq!(properties.maxThreadsDim, [1024, 1024, 64]);
            assert_eq!(properties.maxGridSize, [i32::MAX, 65535, 65535]);
            assert_eq!(properties.SIMDWidth, 32);
        }
    });
}
