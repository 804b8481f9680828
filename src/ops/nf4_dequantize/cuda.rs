//! NF4 on the GPU: a weight there, and kernels/nf4_dequantize.cu that decodes it into memory.

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use half::bf16;

use crate::device::cuda::{Buf, Cuda, Launch, Source, View, ViewMut};
use crate::ops::{LaunchError, ShapeError, check, check_at_least, check_multiple, dimension};
use crate::quant::nf4::{BLOCK, NESTED_BLOCK};
use crate::quant::{Absmax, Nf4Matrix};

const OP: &str = "nf4_dequantize";

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/nf4_dequantize.ptx") };

/// Threads of a block (THREADS in nf4_dequantize.cu).
const THREADS: usize = 256;
/// Elements that a thread decodes: a row is a whole number of them.
const CHUNK: usize = 8;

/// A frozen weight `[rows = out_features, cols = in_features]` on the device, in NF4.
///
/// Its shape is fixed once its parts were checked against it: launches rely on that.
pub struct Weight {
    pub(in crate::ops) rows: usize,
    pub(in crate::ops) cols: usize,
    codes: Buf<u8>,
    scales: Scales,
}

enum Scales {
    Plain(Buf<f32>),
    Nested { codes: Buf<u8>, absmax2: Buf<f32>, map: Buf<f32>, offset: f32 },
}

/// `Nf4` of common/nf4.cuh.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
pub(in crate::ops) struct RawNf4 {
    codes: u64,
    absmax: u64,
    scales: u64,
    absmax2: u64,
    map: u64,
    offset: f32,
    unused: i32,
}

impl Weight {
    /// Copies a weight to the device.
    ///
    /// Errors: `cols` is no multiple of 8, or the parts have not the lengths that the shape asks for (a kernel
    /// would read past them).
    pub fn upload(cuda: &Arc<Cuda>, w: &Nf4Matrix) -> Result<Self, LaunchError> {
        check_weight(w)?;
        let scales = match &w.absmax {
            Absmax::Plain(absmax) => Scales::Plain(cuda.upload(absmax)?),
            Absmax::Nested { codes, absmax2, offset, map } => Scales::Nested {
                codes: cuda.upload(codes)?,
                absmax2: cuda.upload(absmax2)?,
                map: cuda.upload(map)?,
                offset: *offset,
            },
        };
        Ok(Self { rows: w.rows, cols: w.cols, codes: cuda.upload(&w.codes)?, scales })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that it takes on the device.
    pub fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Plain(absmax) => absmax.len() * size_of::<f32>(),
            Scales::Nested { codes, absmax2, map, .. } => {
                codes.len() + (absmax2.len() + map.len()) * size_of::<f32>()
            }
        };
        self.codes.len() + scales
    }

    /// Bytes that a weight would take on the device: for a plan, before it is there.
    pub fn bytes_of(w: &Nf4Matrix) -> usize {
        let scales = match &w.absmax {
            Absmax::Plain(absmax) => size_of_val::<[f32]>(absmax),
            Absmax::Nested { codes, absmax2, map, .. } => {
                codes.len() + size_of_val::<[f32]>(absmax2) + size_of_val::<[f32]>(map)
            }
        };
        w.codes.len() + scales
    }

    /// What a kernel gets; valid as long as `self`.
    pub(in crate::ops) fn raw(&self) -> RawNf4 {
        let mut raw = RawNf4 { codes: self.codes.view().address(), ..RawNf4::zeroed() };
        match &self.scales {
            Scales::Plain(absmax) => raw.absmax = absmax.view().address(),
            Scales::Nested { codes, absmax2, map, offset } => {
                raw.scales = codes.view().address();
                raw.absmax2 = absmax2.view().address();
                raw.map = map.view().address();
                raw.offset = *offset;
            }
        }
        raw
    }
}

fn check_weight(w: &Nf4Matrix) -> Result<(), ShapeError> {
    check_multiple(OP, "in_features of a weight", w.cols, CHUNK)?;
    dimension(OP, "out_features of a weight", w.rows)?;
    dimension(OP, "in_features of a weight", w.cols)?;
    let len = w.rows.saturating_mul(w.cols);
    let blocks = len.div_ceil(BLOCK);
    check(OP, "bytes of codes", w.codes.len(), len.div_ceil(2))?;
    match &w.absmax {
        Absmax::Plain(absmax) => check(OP, "number of scales", absmax.len(), blocks),
        Absmax::Nested { codes, absmax2, map, .. } => {
            check(OP, "number of scales", codes.len(), blocks)?;
            check(OP, "number of second scales", absmax2.len(), blocks.div_ceil(NESTED_BLOCK))?;
            check(OP, "entries of the dynamic map", map.len(), 256)
        }
    }
}

/// Decodes a weight into `out` `[rows, cols]` at pitch `ld`, a multiple of 8; what lies between the rows stays.
pub fn forward(
    cuda: &Cuda,
    w: &Weight,
    out: &mut ViewMut<bf16>,
    ld: usize,
) -> Result<(), LaunchError> {
    check_at_least(OP, "pitch of the result", ld, w.cols)?;
    check_multiple(OP, "pitch of the result", ld, CHUNK)?;
    check_multiple(OP, "address of the result", out.address() as usize, 16)?;
    if w.rows == 0 || w.cols == 0 {
        return Ok(());
    }
    check_at_least(OP, "len of the result", out.len(), (w.rows - 1) * ld + w.cols)?;
    let chunks = w.rows * w.cols / CHUNK;
    let blocks = dimension(OP, "blocks", chunks.div_ceil(THREADS))? as u32;
    let (cols, ld) = (dimension(OP, "in_features", w.cols)?, dimension(OP, "pitch", ld)?);
    let launch = Launch::new(cuda, &SOURCE, "nf4_dequantize", [blocks, 1, 1], THREADS as u32);
    let launch = launch.value(w.raw()).write(out).value(chunks as u64).value(cols).value(ld);
    // SAFETY: the weight's parts have the lengths of its shape (checked when it was uploaded), the result has the
    // length checked above; a thread touches its own chunk.
    Ok(unsafe { launch.run() }?)
}

/// The bias or any vector that is read only if it is there: its address, or null.
pub(in crate::ops) fn address_or_null(view: Option<View<bf16>>) -> u64 {
    view.map_or(0, |view| view.address())
}
