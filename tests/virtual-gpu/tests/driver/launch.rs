//! Launches: parameters of all sizes, limits, cooperative grids, occupancy.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{LaunchConfig, PushKernelArg};
use virtual_gpu::Options;

use crate::common::{device, ok, options, raw_context, raw_kernel, stderr_of, symbol};

#[test]
fn scale_by_cudarc() {
    virtual_gpu::run("launch::scale_by_cudarc", &options(), || {
        let device = device();
        let x: Vec<f32> = (0..1000).map(|i| i as f32 * 0.25).collect();
        let x_there = device.stream.clone_htod(&x).unwrap();
        let mut y = device.stream.alloc_zeros::<f32>(1000).unwrap();
        let scale = device.function("scale");
        let (a, n) = (3.0_f32, 999_u32);
        let mut launch = device.stream.launch_builder(&scale);
        launch.arg(&mut y).arg(&x_there).arg(&a).arg(&n);
        // SAFETY: the kernel stays within the first `n` of both.
        unsafe { launch.launch(LaunchConfig::for_num_elems(n)).unwrap() };
        let mut want: Vec<f32> = x.iter().map(|x| x * 3.0).collect();
        want[999] = 0.0;
        assert_eq!(device.stream.clone_dtoh(&y).unwrap(), want);
    });
}

/// Launches with an array of pointers, one to each parameter.
fn launch(
    function: sys::CUfunction,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    params: &mut [*mut c_void],
) -> CUresult {
    let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
    let (stream, extra) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: each test gives as many parameters as the kernel has.
    unsafe {
        let params = params.as_mut_ptr();
        sys::cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared, stream, params, extra)
    }
}

#[test]
fn parameters_of_all_sizes_both_ways() {
    virtual_gpu::run("launch::parameters_of_all_sizes_both_ways", &options(), || {
        raw_context();
        let sizes = raw_kernel("sizes");
        let want = [0xa1_u32, 0xb1b2, 0xc1c2_c3c4, 0xe1e2_e3e4, 0xf1];
        // SAFETY: all pointers are to locals of the parameters' sizes.
        unsafe {
            let mut memory = 0_u64;
            ok(sys::cuMemAlloc_v2(&mut memory, 20));
            let (mut a, mut b, mut c) = (0xa1_u8, 0xb1b2_u16, 0xf1_u8);
            let mut s = [0xc1c2_c3c4_u32, 0xd1d2_d3d4, 0xe1e2_e3e4];
            let mut params: [*mut c_void; 5] = [
                (&raw mut a).cast(),
                (&raw mut memory).cast(),
                (&raw mut b).cast(),
                (&raw mut s).cast(),
                (&raw mut c).cast(),
            ];
            ok(launch(sizes, [1; 3], [1; 3], 0, &mut params));
            let mut got = [0_u32; 5];
            ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 20));
            assert_eq!(got, want);

            type ParamInfo =
                unsafe extern "C" fn(sys::CUfunction, usize, &mut usize, &mut usize) -> CUresult;
            let param_info: ParamInfo = symbol("cuFuncGetParamInfo");
            // As a buffer: offsets 0, 8, 16, 20 and 32 by the parameters' alignments.
            let (mut offset, mut size, mut offsets) = (0, 0, Vec::new());
            for i in 0..5 {
                ok(param_info(sizes, i, &mut offset, &mut size));
                offsets.push((offset, size));
            }
            assert_eq!(offsets, [(0, 1), (8, 8), (16, 2), (20, 12), (32, 1)]);
            let past = param_info(sizes, 5, &mut offset, &mut size);
            assert_eq!(past, CUresult::CUDA_ERROR_INVALID_VALUE);
            ok(sys::cuMemsetD8_v2(memory, 0, 20));
            let mut buffer = [0_u8; 33];
            (buffer[0], buffer[32]) = (a, c);
            buffer[8..16].copy_from_slice(&memory.to_le_bytes());
            buffer[16..18].copy_from_slice(&b.to_le_bytes());
            for (to, word) in buffer[20..32].chunks_mut(4).zip(s) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            let mut len = 33_usize;
            let mut extra: [*mut c_void; 5] = [
                std::ptr::without_provenance_mut(1),
                buffer.as_mut_ptr().cast(),
                std::ptr::without_provenance_mut(2),
                (&raw mut len).cast(),
                std::ptr::null_mut(),
            ];
            let (stream, none) = (std::ptr::null_mut(), std::ptr::null_mut());
            let by_buffer = |extra: &mut [*mut c_void; 5]| {
                let extra = extra.as_mut_ptr();
                sys::cuLaunchKernel(sizes, 1, 1, 1, 1, 1, 1, 0, stream, none, extra)
            };
            ok(by_buffer(&mut extra));
            ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 20));
            assert_eq!(got, want);
            *extra[3].cast::<usize>() = 32;
            assert_eq!(by_buffer(&mut extra), CUresult::CUDA_ERROR_INVALID_VALUE);
            // Neither.
            let (stream, none) = (std::ptr::null_mut(), std::ptr::null_mut());
            let neither =
                sys::cuLaunchKernel(sizes, 1, 1, 1, 1, 1, 1, 0, stream, none, none.cast());
            assert_eq!(neither, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn what_no_device_takes_is_refused_at_once() {
    virtual_gpu::run("launch::what_no_device_takes_is_refused_at_once", &options(), || {
        raw_context();
        let (at_most_64, just_64) = (raw_kernel("at_most_64"), raw_kernel("just_64"));
        let plain = |grid, block| launch(at_most_64, grid, block, 0, &mut []);
        let told = stderr_of(|| {
            for (grid, block) in [
                ([0, 1, 1], [1, 1, 1]),
                ([1, 1, 1], [1, 0, 1]),
                ([1, 65536, 1], [1, 1, 1]),
                ([1, 1, 1], [1, 1, 65]),
                ([1, 1, 1], [32, 33, 1]),
            ] {
                assert_eq!(plain(grid, block), CUresult::CUDA_ERROR_INVALID_VALUE);
            }
            let many = plain([1; 3], [65, 1, 1]);
            assert_eq!(many, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
            let other = launch(just_64, [1; 3], [32, 1, 1], 0, &mut []);
            assert_eq!(other, CUresult::CUDA_ERROR_INVALID_VALUE);
            // More than 48 KiB of dynamic shared memory is not allowed without asking.
            let much = launch(just_64, [1; 3], [64, 1, 1], (48 << 10) + 1, &mut []);
            assert_eq!(much, CUresult::CUDA_ERROR_INVALID_VALUE);
        });
        assert_eq!(told.lines().count(), 8, "{told}");
        assert!(told.contains("just_64"), "{told}");
        ok(plain([1; 3], [64, 1, 1]));
        ok(launch(just_64, [1; 3], [64, 1, 1], 48 << 10, &mut []));
        // SAFETY: no pointers.
        ok(unsafe { sys::cuCtxSynchronize() });
    });
}

#[test]
fn dynamic_shared_memory_up_to_what_was_asked_for() {
    virtual_gpu::run("launch::dynamic_shared_memory_up_to_what_was_asked_for", &options(), || {
        raw_context();
        let reverse = raw_kernel("reverse");
        let words = (100_u32 << 10) / 4;
        // SAFETY: all pointers are to locals of the parameters' sizes.
        unsafe {
            let mut memory = 0_u64;
            ok(sys::cuMemAlloc_v2(&mut memory, 4 * 64));
            let mut n = words;
            let mut params: [*mut c_void; 2] = [(&raw mut memory).cast(), (&raw mut n).cast()];
            let mut launch = |shared| launch(reverse, [1; 3], [64, 1, 1], shared, &mut params);
            assert_eq!(launch(4 * words), CUresult::CUDA_ERROR_INVALID_VALUE);
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let mut value = 0;
            ok(sys::cuFuncGetAttribute(&mut value, most, reverse));
            assert_eq!(value, 48 << 10);
            ok(sys::cuFuncSetAttribute(reverse, most, 100 << 10));
            ok(launch(4 * words));
            let mut got = vec![0_u32; 64];
            ok(sys::cuMemcpyDtoH_v2(got.as_mut_ptr().cast(), memory, 256));
            assert_eq!(got, (0..64).rev().collect::<Vec<u32>>());
            let too_much = sys::cuFuncSetAttribute(reverse, most, 164 << 10);
            assert_eq!(too_much, CUresult::CUDA_ERROR_INVALID_VALUE);
        }
    });
}

#[test]
fn a_cooperative_grid_must_fit() {
    let options = Options { multiprocessors: 2, ..options() };
    virtual_gpu::run("launch::a_cooperative_grid_must_fit", &options, || {
        raw_context();
        let kernel = raw_kernel("at_most_64");
        // SAFETY: the kernel has no parameters.
        unsafe {
            let mut blocks = 0;
            ok(sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(&mut blocks, kernel, 64, 0));
            // Slots for blocks are what limits it: 64 threads of few registers.
            assert_eq!(blocks, 32);
            let launch = |grid| {
                let (stream, params) = (std::ptr::null_mut(), std::ptr::null_mut());
                sys::cuLaunchCooperativeKernel(kernel, grid, 1, 1, 64, 1, 1, 0, stream, params)
            };
            ok(launch(64));
            assert_eq!(launch(65), CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
            ok(sys::cuCtxSynchronize());
        }
    });
}

unsafe extern "C" fn kib_a_thread(threads: i32) -> usize {
    1024 * threads as usize
}

#[test]
fn occupancy_of_blocks() {
    virtual_gpu::run("launch::occupancy_of_blocks", &options(), || {
        raw_context();
        let (kernel, bounded) = (raw_kernel("trap_now"), raw_kernel("at_most_64"));
        // SAFETY: all pointers are to locals.
        unsafe {
            let (mut grid, mut block) = (0, 0);
            ok(sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, kernel, None, 0, 0));
            assert_eq!((grid, block), (2 * 108, 1024));
            ok(sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, bounded, None, 0, 0));
            assert_eq!((grid, block), (32 * 108, 64));
            // With 1 KiB a thread, 164 KiB hold 160 threads and the blocks' own KiB: a block of 160.
            let shared = Some(kib_a_thread as unsafe extern "C" fn(i32) -> usize);
            ok(sys::cuOccupancyMaxPotentialBlockSize(&mut grid, &mut block, kernel, shared, 0, 0));
            assert_eq!((grid, block), (108, 160));
            let mut bytes = 0;
            ok(sys::cuOccupancyAvailableDynamicSMemPerBlock(&mut bytes, kernel, 2, 128));
            assert_eq!(bytes, 81 << 10);
        }
    });
}

#[test]
fn extended_launches() {
    virtual_gpu::run("launch::extended_launches", &options(), || {
        raw_context();
        let store = raw_kernel("store");
        // SAFETY: all pointers are to locals of the parameters' sizes.
        unsafe {
            let (mut memory, mut value) = (0_u64, 77_u32);
            ok(sys::cuMemAlloc_v2(&mut memory, 4));
            let mut params: [*mut c_void; 2] = [(&raw mut memory).cast(), (&raw mut value).cast()];
            let mut attribute = std::mem::zeroed::<sys::CUlaunchAttribute>();
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attribute.value.clusterDim.x = 1;
            (attribute.value.clusterDim.y, attribute.value.clusterDim.z) = (1, 1);
            let mut config = std::mem::zeroed::<sys::CUlaunchConfig>();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
            (config.attrs, config.numAttrs) = (&raw mut attribute, 1);
            let launch = |config: &sys::CUlaunchConfig, params: &mut [*mut c_void; 2]| {
                sys::cuLaunchKernelEx(config, store, params.as_mut_ptr(), std::ptr::null_mut())
            };
            ok(launch(&config, &mut params));
            let mut got = 0_u32;
            ok(sys::cuMemcpyDtoH_v2((&raw mut got).cast(), memory, 4));
            assert_eq!(got, 77);
            (*config.attrs).value.clusterDim.x = 2;
            assert_eq!(launch(&config, &mut params), CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
    });
}
