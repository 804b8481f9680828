//! Quantising on the GPU: kernels/nf4_quantize.cu.

use half::bf16;

use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, check, dimension};
use crate::quant::nf4::{BLOCK, NESTED_BLOCK};

const OP: &str = "nf4_quantize";

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/nf4_quantize.ptx") };

/// Threads of a block (THREADS in nf4_quantize.cu).
const THREADS: u32 = 256;
/// Blocks of 64 elements that a block of threads quantises: a warp each.
const WARPS: usize = 8;

/// Codes and plain f32 scales of f32 weights.
pub fn forward_f32(
    cuda: &Cuda,
    x: View<f32>,
    codes: &mut ViewMut<u8>,
    absmax: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let grid = grid(x.len(), codes, absmax)?;
    let launch = Launch::new(cuda, &SOURCE, "nf4_quantize_f32", grid, THREADS);
    let launch = launch.read(x).write(codes).write(absmax).value(x.len() as u64);
    // SAFETY: the lengths are checked in `grid`; a warp touches its own 64 elements, 32 bytes and scale.
    Ok(unsafe { launch.run() }?)
}

/// Codes and plain f32 scales of bf16 weights.
pub fn forward_bf16(
    cuda: &Cuda,
    x: View<bf16>,
    codes: &mut ViewMut<u8>,
    absmax: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let grid = grid(x.len(), codes, absmax)?;
    let launch = Launch::new(cuda, &SOURCE, "nf4_quantize_bf16", grid, THREADS);
    let launch = launch.read(x).write(codes).write(absmax).value(x.len() as u64);
    // SAFETY: the lengths are checked in `grid`; a warp touches its own 64 elements, 32 bytes and scale.
    Ok(unsafe { launch.run() }?)
}

fn grid(n: usize, codes: &ViewMut<u8>, absmax: &ViewMut<f32>) -> Result<[u32; 3], LaunchError> {
    let blocks = n.div_ceil(BLOCK);
    check(OP, "len of codes", codes.len(), n.div_ceil(2))?;
    check(OP, "len of absmax", absmax.len(), blocks)?;
    Ok([dimension(OP, "blocks", blocks.div_ceil(WARPS))? as u32, 1, 1])
}

/// Quantises plain scales to 8 bits: `offset` `[1]`, `scales`, and one `absmax2` for 256 of them. `map` is
/// [`crate::quant::DYNAMIC_MAP`] on the device. Without scales, the offset is zero, as the CPU's.
pub fn double_quantise(
    cuda: &Cuda,
    absmax: View<f32>,
    map: View<f32>,
    offset: &mut ViewMut<f32>,
    scales: &mut ViewMut<u8>,
    absmax2: &mut ViewMut<f32>,
) -> Result<(), LaunchError> {
    let blocks = absmax.len();
    let nested = blocks.div_ceil(NESTED_BLOCK);
    check(OP, "entries of the dynamic map", map.len(), 256)?;
    check(OP, "len of offset", offset.len(), 1)?;
    check(OP, "len of scales", scales.len(), blocks)?;
    check(OP, "len of absmax2", absmax2.len(), nested)?;
    if blocks == 0 {
        return Ok(cuda.fill(offset, 0)?);
    }
    let grid = [dimension(OP, "blocks", nested)? as u32, 1, 1];
    let mean = Launch::new(cuda, &SOURCE, "nf4_quantize_scales_mean", [1, 1, 1], THREADS);
    let mean = mean.read(absmax).write(offset).value(blocks as u64);
    // SAFETY: it reads `blocks` scales and writes one number.
    unsafe { mean.run() }?;
    let launch = Launch::new(cuda, &SOURCE, "nf4_quantize_scales", grid, THREADS);
    let launch = launch.read(absmax).read(offset.as_view()).read(map).write(scales).write(absmax2);
    // SAFETY: the lengths are checked above; a block touches its own 256 scales.
    Ok(unsafe { launch.value(blocks as u64).run() }?)
}
