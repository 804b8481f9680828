//! Memory: allocation to the last byte, copies and fills of all kinds, pinned and managed memory, pools.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, DriverError};
use virtual_gpu::Options;

use crate::common::{device, ok, options, raw_context};

#[test]
fn what_is_copied_there_comes_back() {
    virtual_gpu::run("memory::what_is_copied_there_comes_back", &options(), || {
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        let data: Vec<u32> = (0..10_000_u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
        let there = stream.clone_htod(&data).unwrap();
        let mut copy = stream.alloc_zeros::<u32>(data.len()).unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), vec![0; data.len()]);
        stream.memcpy_dtod(&there, &mut copy).unwrap();
        assert_eq!(stream.clone_dtoh(&copy).unwrap(), data);
    });
}

#[test]
fn out_of_memory_is_an_error_and_no_more() {
    let options = Options { memory_bytes: 8 << 20, ..options() };
    virtual_gpu::run("memory::out_of_memory_is_an_error_and_no_more", &options, || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let half = stream.alloc_zeros::<u8>(5 << 20).unwrap();
        let out = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        assert_eq!(stream.alloc_zeros::<u8>(5 << 20).err(), Some(out));
        assert_eq!(stream.alloc_zeros::<u8>(1 << 60).err(), Some(out));
        drop(half);
        stream.synchronize().unwrap();
        stream.alloc_zeros::<u8>(7 << 20).unwrap();
    });
}

#[test]
fn fills_of_every_width_and_of_rows() {
    virtual_gpu::run("memory::fills_of_every_width_and_of_rows", &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals with room for what is copied.
        unsafe {
            let (mut memory, mut pitch) = (0, 0);
            ok(sys::cuMemAllocPitch_v2(&mut memory, &mut pitch, 40, 3, 4));
            assert!(pitch >= 40 && pitch % 256 == 0);
            let all = pitch * 3;
            ok(sys::cuMemsetD8_v2(memory, 0xee, all));
            ok(sys::cuMemsetD2D8_v2(memory, pitch, 1, 10, 3));
            ok(sys::cuMemsetD2D16_v2(memory + 10, pitch, 0x0302, 5, 2));
            ok(sys::cuMemsetD2D32_v2(memory + 20, pitch, 0x0706_0504, 5, 1));
            let mut got = vec![0_u8; all];
            ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, all));
            let mut want = vec![0xee; all];
            for row in 0..3 {
                want[row * pitch..][..10].fill(1);
            }
            for row in 0..2 {
                for i in 0..5 {
                    want[row * pitch + 10 + 2 * i..][..2].copy_from_slice(&[2, 3]);
                }
            }
            for i in 0..5 {
                want[20 + 4 * i..][..4].copy_from_slice(&[4, 5, 6, 7]);
            }
            assert_eq!(got, want);
            // Not a multiple of the element.
            let odd = sys::cuMemsetD32_v2(memory + 2, 0, 1);
            assert_eq!(odd, CUresult::CUDA_ERROR_INVALID_VALUE);
            let odd = sys::cuMemsetD16_v2(memory + 1, 0, 1);
            assert_eq!(odd, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn copies_of_rows_and_slices() {
    virtual_gpu::run("memory::copies_of_rows_and_slices", &options(), || {
        raw_context();
        // 4 slices of 5 rows of 7 bytes on the host; a box of 2 x 3 x 4 of it to the device and back.
        let source: Vec<u8> = (0..140).collect();
        let mut back = vec![0_u8; 140];
        // SAFETY: all pointers are to locals with room for what is copied.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 16 * 6 * 3));
            ok(sys::cuMemsetD8_v2(memory, 0xff, 16 * 6 * 3));
            // Its kinds of memory have no zero, so they come before it is taken for initialised.
            let mut copy = MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
            (*copy.as_mut_ptr()).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
            (*copy.as_mut_ptr()).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
            let mut copy = copy.assume_init();
            copy.srcHost = source.as_ptr().cast();
            (copy.srcXInBytes, copy.srcY, copy.srcZ) = (1, 2, 1);
            (copy.srcPitch, copy.srcHeight) = (7, 5);
            copy.dstDevice = memory;
            (copy.dstXInBytes, copy.dstY, copy.dstZ) = (3, 1, 1);
            (copy.dstPitch, copy.dstHeight) = (16, 6);
            (copy.WidthInBytes, copy.Height, copy.Depth) = (4, 3, 2);
            ok(sys::cuMemcpy3D_v2(&copy));
            // Back, as rows of one slice after the other.
            for z in 0..2 {
                let mut copy = MaybeUninit::<sys::CUDA_MEMCPY2D>::zeroed();
                (*copy.as_mut_ptr()).srcMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_DEVICE;
                (*copy.as_mut_ptr()).dstMemoryType = sys::CUmemorytype::CU_MEMORYTYPE_HOST;
                let mut copy = copy.assume_init();
                copy.srcDevice = memory + 16 * 6 * (1 + z);
                (copy.srcXInBytes, copy.srcY, copy.srcPitch) = (3, 1, 16);
                copy.dstHost = back.as_mut_ptr().add(35 * (1 + z as usize)).cast();
                (copy.dstXInBytes, copy.dstY, copy.dstPitch) = (1, 2, 7);
                (copy.WidthInBytes, copy.Height) = (4, 3);
                ok(sys::cuMemcpy2D_v2(&copy));
            }
            let mut want = vec![0_u8; 140];
            for (z, y, x) in
                (1..3).flat_map(|z| (2..5).flat_map(move |y| (1..5).map(move |x| (z, y, x))))
            {
                want[35 * z + 7 * y + x] = source[35 * z + 7 * y + x];
            }
            assert_eq!(back, want);
            // A row wider than its pitch.
            copy.dstPitch = 6;
            assert_eq!(sys::cuMemcpy3D_v2(&copy), CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn generic_copies_find_out_where_bytes_are() {
    virtual_gpu::run("memory::generic_copies_find_out_where_bytes_are", &options(), || {
        raw_context();
        let (data, mut back) = ([1_u8, 2, 3, 4, 5], [0_u8; 5]);
        // SAFETY: all pointers are to locals with room for what is copied.
        unsafe {
            let (mut first, mut second) = (0, 0);
            ok(sys::cuMemAlloc_v2(&mut first, 5));
            ok(sys::cuMemAlloc_v2(&mut second, 5));
            ok(sys::cuMemcpy(first, data.as_ptr() as u64, 5));
            ok(sys::cuMemcpyAsync(second, first, 5, std::ptr::null_mut()));
            ok(sys::cuMemcpy(back.as_mut_ptr() as u64, second, 5));
            assert_eq!(back, data);
            let mut other = [0_u8; 5];
            ok(sys::cuMemcpy(other.as_mut_ptr() as u64, back.as_ptr() as u64, 5));
            assert_eq!(other, data);
            let (mut base, mut size) = (0, 0);
            ok(sys::cuMemGetAddressRange_v2(&mut base, &mut size, second + 3));
            assert_eq!((base, size), (second, 5));
        }
    });
}

#[test]
fn a_copy_past_the_end_is_refused_and_told() {
    virtual_gpu::run("memory::a_copy_past_the_end_is_refused_and_told", &options(), || {
        raw_context();
        // SAFETY: the device refuses what is past its memory; the host's is there.
        let told = crate::common::stderr_of(|| unsafe {
            let data = [0_u8; 64];
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 60));
            let result = sys::cuMemcpyHtoD_v2(memory, data.as_ptr().cast(), 64);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuMemFree_v2(memory));
            let result = sys::cuMemcpyHtoD_v2(memory, data.as_ptr().cast(), 4);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemFree_v2(memory), CUresult::CUDA_ERROR_INVALID_VALUE);
            // The context goes on.
            ok(sys::cuCtxSynchronize());
        });
        assert_eq!(told.lines().count(), 3, "{told}");
        assert!(told.contains("64 bytes at"), "{told}");
        assert!(told.contains("freed"), "{told}");
    });
}

#[test]
fn pinned_and_registered_memory() {
    virtual_gpu::run("memory::pinned_and_registered_memory", &options(), || {
        let device = device();
        let add_one = device.function("add_one");
        // SAFETY: all pointers are to locals or to what the driver gave, with room for what is there.
        unsafe {
            let mut pinned: *mut c_void = std::ptr::null_mut();
            ok(sys::cuMemHostAlloc(&mut pinned, 4 * 100, 2));
            let words = std::slice::from_raw_parts_mut(pinned.cast::<u32>(), 100);
            words.fill(41);
            let (mut address, mut flags) = (0, 0);
            ok(sys::cuMemHostGetDevicePointer_v2(&mut address, pinned, 0));
            ok(sys::cuMemHostGetFlags(&mut flags, pinned));
            assert_eq!(flags & 2, 2);
            launch_on(&device.stream, &add_one, address, 100);
            assert!(words.iter().all(|&word| word == 42));
            ok(sys::cuMemFreeHost(pinned));
            let again = sys::cuMemFreeHost(pinned);
            assert_eq!(again, CUresult::CUDA_ERROR_INVALID_VALUE);

            let mut own = vec![6_u32; 100];
            let at: *mut c_void = own.as_mut_ptr().cast();
            ok(sys::cuMemHostRegister_v2(at, 400, 0));
            let twice = sys::cuMemHostRegister_v2(at, 400, 0);
            assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
            launch_on(&device.stream, &add_one, at as u64, 100);
            assert_eq!(own, vec![7; 100]);
            ok(sys::cuMemHostUnregister(at));
            let twice = sys::cuMemHostUnregister(at);
            assert_eq!(twice, CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        }
    });
}

fn launch_on(
    stream: &std::sync::Arc<cudarc::driver::CudaStream>,
    function: &cudarc::driver::CudaFunction,
    address: u64,
    n: u32,
) {
    use cudarc::driver::{LaunchConfig, PushKernelArg};
    let config = LaunchConfig::for_num_elems(n);
    // SAFETY: the kernel stays within the memory that the test gives it.
    unsafe { stream.launch_builder(function).arg(&address).arg(&n).launch(config).unwrap() };
    stream.synchronize().unwrap();
}

#[test]
fn managed_memory_is_the_same_on_both_sides() {
    virtual_gpu::run("memory::managed_memory_is_the_same_on_both_sides", &options(), || {
        let device = device();
        let add_one = device.function("add_one");
        // SAFETY: all pointers are to locals or to what the driver gave, with room for what is there.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAllocManaged(&mut memory, 400, 1));
            let words = std::slice::from_raw_parts_mut(memory as *mut u32, 100);
            for (i, word) in words.iter_mut().enumerate() {
                *word = i as u32;
            }
            ok(sys::cuMemPrefetchAsync(memory, 400, 0, device.stream.cu_stream()));
            launch_on(&device.stream, &add_one, memory, 100);
            assert!(words.iter().enumerate().all(|(i, &word)| word == i as u32 + 1));
            let mut managed = 7_u8;
            ok(sys::cuPointerGetAttribute(
                (&raw mut managed).cast(),
                sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_IS_MANAGED,
                memory + 8,
            ));
            assert_eq!(managed, 1);
            let beyond = sys::cuMemPrefetchAsync(memory, 404, 0, device.stream.cu_stream());
            assert_eq!(beyond, CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuMemFree_v2(memory));
        }
    });
}

#[test]
fn what_a_pointer_points_to() {
    use sys::CUpointer_attribute as Attribute;
    virtual_gpu::run("memory::what_a_pointer_points_to", &options(), || {
        let context = raw_context();
        // SAFETY: all pointers are to locals of the attribute's type.
        unsafe {
            let mut memory = 0;
            ok(sys::cuMemAlloc_v2(&mut memory, 1000));
            let mut kind = 0_u32;
            let code = Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            ok(sys::cuPointerGetAttribute((&raw mut kind).cast(), code, memory + 999));
            assert_eq!(kind, sys::CUmemorytype::CU_MEMORYTYPE_DEVICE as u32);
            let result = sys::cuPointerGetAttribute((&raw mut kind).cast(), code, memory + 1000);
            assert_eq!(result, CUresult::CUDA_ERROR_INVALID_VALUE);
            let (mut of, mut start, mut size) = (0_u64, 0_u64, 0_u64);
            let mut codes = [
                Attribute::CU_POINTER_ATTRIBUTE_CONTEXT,
                Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
            ];
            let mut places: [*mut c_void; 3] =
                [(&raw mut of).cast(), (&raw mut start).cast(), (&raw mut size).cast()];
            ok(sys::cuPointerGetAttributes(3, codes.as_mut_ptr(), places.as_mut_ptr(), memory + 5));
            assert_eq!((of, start, size), (context as u64, memory, 1000));
            // Plain host memory is known to nobody, which the list form tells by zeros.
            let local = &raw const of as u64;
            ok(sys::cuPointerGetAttributes(3, codes.as_mut_ptr(), places.as_mut_ptr(), local));
            assert_eq!((of, start, size), (0, 0, 0));
        }
    });
}

#[test]
fn pools_count_what_is_used() {
    virtual_gpu::run("memory::pools_count_what_is_used", &options(), || {
        raw_context();
        // SAFETY: all pointers are to locals of the attribute's type.
        unsafe {
            let mut pool = std::ptr::null_mut();
            ok(sys::cuDeviceGetDefaultMemPool(&mut pool, 0));
            let value = |code| {
                let mut value = 0_u64;
                ok(sys::cuMemPoolGetAttribute(pool, code, (&raw mut value).cast()));
                value
            };
            let used = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT;
            let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
            let (mut first, mut second) = (0, 0);
            let stream = std::ptr::null_mut();
            ok(sys::cuMemAllocAsync(&mut first, 1000, stream));
            ok(sys::cuMemAllocFromPoolAsync(&mut second, 500, pool, stream));
            assert_eq!(value(used), 1500);
            ok(sys::cuMemFreeAsync(first, stream));
            assert_eq!((value(used), value(high)), (500, 1500));
            ok(sys::cuMemFree_v2(second));
            assert_eq!(value(used), 0);
            let twice = sys::cuMemFreeAsync(first, stream);
            assert_eq!(twice, CUresult::CUDA_ERROR_INVALID_VALUE);
            let mut threshold = 1_u64 << 30;
            let code = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            ok(sys::cuMemPoolSetAttribute(pool, code, (&raw mut threshold).cast()));
            assert_eq!(value(code), 1 << 30);
        }
    });
}
