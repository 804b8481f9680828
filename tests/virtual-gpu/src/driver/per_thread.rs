//! The functions whose null stream is the thread's own: `_ptsz`, and `_ptds` for those without a stream.
//!
//! A program that is compiled for per-thread default streams calls these. They are the others, but for
//! what a null stream means.

use super::abi::{Host, HostFn, In, Out, StreamCallback};
use super::capture_api::*;
use super::copy::*;
use super::event::*;
use super::graph_build::EdgeData;
use super::graph_exec::*;
use super::host::*;
use super::launch::*;
use super::pool::*;
use super::set::*;
use super::stream::*;

/// A stream's handle as these functions take it.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct OfThread(usize);

impl From<OfThread> for usize {
    fn from(stream: OfThread) -> usize {
        if stream.0 == 0 { PER_THREAD } else { stream.0 }
    }
}

/// `new = old(types of the arguments)`: exports `new`, which is `old`.
macro_rules! per_thread {
    ($($new:ident = $old:ident($($argument:ident: $kind:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $new($($argument: $kind),*) -> u32 {
                $old($($argument.into()),*)
            }
        )*
    };
}

#[rustfmt::skip]
per_thread! {
    cuMemcpy_ptds = cuMemcpy(a: u64, b: u64, c: usize);
    cuMemcpyAsync_ptsz = cuMemcpyAsync(a: u64, b: u64, c: usize, d: OfThread);
    cuMemcpyPeer_ptds = cuMemcpyPeer(a: u64, b: usize, c: u64, d: usize, e: usize);
    cuMemcpyPeerAsync_ptsz = cuMemcpyPeerAsync(a: u64, b: usize, c: u64, d: usize, e: usize, f: OfThread);
    cuMemcpyHtoD_v2_ptds = cuMemcpyHtoD_v2(a: u64, b: Host, c: usize);
    cuMemcpyHtoDAsync_v2_ptsz = cuMemcpyHtoDAsync_v2(a: u64, b: Host, c: usize, d: OfThread);
    cuMemcpyDtoH_v2_ptds = cuMemcpyDtoH_v2(a: Host, b: u64, c: usize);
    cuMemcpyDtoHAsync_v2_ptsz = cuMemcpyDtoHAsync_v2(a: Host, b: u64, c: usize, d: OfThread);
    cuMemcpyDtoD_v2_ptds = cuMemcpyDtoD_v2(a: u64, b: u64, c: usize);
    cuMemcpyDtoDAsync_v2_ptsz = cuMemcpyDtoDAsync_v2(a: u64, b: u64, c: usize, d: OfThread);
    cuMemcpy2D_v2_ptds = cuMemcpy2D_v2(a: In<Copy2D>);
    cuMemcpy2DUnaligned_v2_ptds = cuMemcpy2DUnaligned_v2(a: In<Copy2D>);
    cuMemcpy2DAsync_v2_ptsz = cuMemcpy2DAsync_v2(a: In<Copy2D>, b: OfThread);
    cuMemcpy3D_v2_ptds = cuMemcpy3D_v2(a: In<Copy3D>);
    cuMemcpy3DAsync_v2_ptsz = cuMemcpy3DAsync_v2(a: In<Copy3D>, b: OfThread);
    cuMemcpy3DPeer_ptds = cuMemcpy3DPeer(a: In<Copy3D>);
    cuMemcpy3DPeerAsync_ptsz = cuMemcpy3DPeerAsync(a: In<Copy3D>, b: OfThread);
    cuMemsetD8_v2_ptds = cuMemsetD8_v2(a: u64, b: u8, c: usize);
    cuMemsetD16_v2_ptds = cuMemsetD16_v2(a: u64, b: u16, c: usize);
    cuMemsetD32_v2_ptds = cuMemsetD32_v2(a: u64, b: u32, c: usize);
    cuMemsetD8Async_ptsz = cuMemsetD8Async(a: u64, b: u8, c: usize, d: OfThread);
    cuMemsetD16Async_ptsz = cuMemsetD16Async(a: u64, b: u16, c: usize, d: OfThread);
    cuMemsetD32Async_ptsz = cuMemsetD32Async(a: u64, b: u32, c: usize, d: OfThread);
    cuMemsetD2D8_v2_ptds = cuMemsetD2D8_v2(a: u64, b: usize, c: u8, d: usize, e: usize);
    cuMemsetD2D16_v2_ptds = cuMemsetD2D16_v2(a: u64, b: usize, c: u16, d: usize, e: usize);
    cuMemsetD2D32_v2_ptds = cuMemsetD2D32_v2(a: u64, b: usize, c: u32, d: usize, e: usize);
    cuMemsetD2D8Async_ptsz = cuMemsetD2D8Async(a: u64, b: usize, c: u8, d: usize, e: usize, f: OfThread);
    cuMemsetD2D16Async_ptsz = cuMemsetD2D16Async(a: u64, b: usize, c: u16, d: usize, e: usize, f: OfThread);
    cuMemsetD2D32Async_ptsz = cuMemsetD2D32Async(a: u64, b: usize, c: u32, d: usize, e: usize, f: OfThread);
    cuMemPrefetchAsync_ptsz = cuMemPrefetchAsync(a: u64, b: usize, c: i32, d: OfThread);
    cuMemPrefetchAsync_v2_ptsz = cuMemPrefetchAsync_v2(a: u64, b: usize, c: Location, d: u32, e: OfThread);
    cuMemAllocAsync_ptsz = cuMemAllocAsync(a: Out<u64>, b: usize, c: OfThread);
    cuMemAllocFromPoolAsync_ptsz = cuMemAllocFromPoolAsync(a: Out<u64>, b: usize, c: usize, d: OfThread);
    cuMemFreeAsync_ptsz = cuMemFreeAsync(a: u64, b: OfThread);
    cuStreamAttachMemAsync_ptsz = cuStreamAttachMemAsync(a: OfThread, b: u64, c: usize, d: u32);
    cuStreamSynchronize_ptsz = cuStreamSynchronize(a: OfThread);
    cuStreamQuery_ptsz = cuStreamQuery(a: OfThread);
    cuStreamWaitEvent_ptsz = cuStreamWaitEvent(a: OfThread, b: usize, c: u32);
    cuStreamAddCallback_ptsz = cuStreamAddCallback(a: OfThread, b: StreamCallback, c: Host, d: u32);
    cuStreamGetPriority_ptsz = cuStreamGetPriority(a: OfThread, b: Out<i32>);
    cuStreamGetFlags_ptsz = cuStreamGetFlags(a: OfThread, b: Out<u32>);
    cuStreamGetId_ptsz = cuStreamGetId(a: OfThread, b: Out<u64>);
    cuStreamGetDevice_ptsz = cuStreamGetDevice(a: OfThread, b: Out<i32>);
    cuStreamGetCtx_ptsz = cuStreamGetCtx(a: OfThread, b: Out<usize>);
    cuStreamGetCtx_v2_ptsz = cuStreamGetCtx_v2(a: OfThread, b: Out<usize>, c: Out<usize>);
    cuStreamBeginCapture_v2_ptsz = cuStreamBeginCapture_v2(a: OfThread, b: u32);
    cuStreamBeginCaptureToGraph_ptsz = cuStreamBeginCaptureToGraph(a: OfThread, b: usize, c: In<usize>, d: In<EdgeData>, e: usize, f: u32);
    cuStreamEndCapture_ptsz = cuStreamEndCapture(a: OfThread, b: Out<usize>);
    cuStreamIsCapturing_ptsz = cuStreamIsCapturing(a: OfThread, b: Out<u32>);
    cuStreamGetCaptureInfo_ptsz = cuStreamGetCaptureInfo(a: OfThread, b: Out<u32>, c: Out<u64>);
    cuStreamGetCaptureInfo_v2_ptsz = cuStreamGetCaptureInfo_v2(a: OfThread, b: Out<u32>, c: Out<u64>, d: Out<usize>, e: Out<*const usize>, f: Out<usize>);
    cuStreamGetCaptureInfo_v3_ptsz = cuStreamGetCaptureInfo_v3(a: OfThread, b: Out<u32>, c: Out<u64>, d: Out<usize>, e: Out<*const usize>, f: Out<*const EdgeData>, g: Out<usize>);
    cuStreamUpdateCaptureDependencies_ptsz = cuStreamUpdateCaptureDependencies(a: OfThread, b: In<usize>, c: usize, d: u32);
    cuStreamUpdateCaptureDependencies_v2_ptsz = cuStreamUpdateCaptureDependencies_v2(a: OfThread, b: In<usize>, c: In<EdgeData>, d: usize, e: u32);
    cuEventRecord_ptsz = cuEventRecord(a: usize, b: OfThread);
    cuEventRecordWithFlags_ptsz = cuEventRecordWithFlags(a: usize, b: OfThread, c: u32);
    cuLaunchKernel_ptsz = cuLaunchKernel(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: OfThread, j: In<Host>, k: In<Host>);
    cuLaunchCooperativeKernel_ptsz = cuLaunchCooperativeKernel(a: usize, b: u32, c: u32, d: u32, e: u32, f: u32, g: u32, h: u32, i: OfThread, j: In<Host>);
    cuLaunchHostFunc_ptsz = cuLaunchHostFunc(a: OfThread, b: HostFn, c: Host);
    cuGraphInstantiateWithParams_ptsz = cuGraphInstantiateWithParams(a: Out<usize>, b: usize, c: Out<InstantiateParams>);
    cuGraphUpload_ptsz = cuGraphUpload(a: usize, b: OfThread);
    cuGraphLaunch_ptsz = cuGraphLaunch(a: usize, b: OfThread);
}

/// The stream is inside the configuration.
#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernelEx_ptsz(
    config: In<Config>,
    function: usize,
    each: In<Host>,
    extra: In<Host>,
) -> u32 {
    launch_ex("cuLaunchKernelEx_ptsz", config, function, Params { each, extra }, PER_THREAD)
}
