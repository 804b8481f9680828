//! The quantised, adapted linear on the GPU, straight from NF4: kernels/nf4_linear.cu.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::nf4_dequantize::cuda::{RawNf4, address_or_null};
use crate::ops::{LaunchError, ShapeError, check, check_at_least, check_multiple, dimension};

pub use crate::ops::nf4_dequantize::cuda::Weight;

const OP: &str = "nf4_linear";

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/nf4_linear.ptx") };

/// Threads of a block (THREADS in nf4_linear.cu).
const THREADS: u32 = 256;
/// Most products of one call (SEGMENTS in nf4_linear.cu): three linears and their adapters.
const SEGMENTS: usize = 6;
/// k of a step of the main loop (DEPTH in nf4_linear.cu).
const DEPTH: usize = 32;
/// Rows and columns of a block's tile (TILE in nf4_linear.cu).
const TILE: usize = 128;
/// Rows and columns of a block of the kernel for few rows.
const FEW: (usize, usize) = (16, 32);
/// Elements of bf16 in 16 bytes: what pitches are multiples of.
const PITCH: usize = 8;
/// Bytes of two neighbours of a result, which are written at once.
const PAIR: usize = 4;

/// The adapter's part of one linear: `left[m, 0..r]` at pitch `ld` (V or U, scale included), and the matrix it
/// meets (B `[out, r]` forward, A `[r, in]` backward). `r` is the padded rank, `r` and `ld` are multiples of 8.
#[derive(Clone, Copy)]
pub struct LowRank<'a> {
    pub left: View<'a, bf16>,
    pub ld: usize,
    pub r: usize,
    pub right: View<'a, bf16>,
}

/// One linear's contribution to dx.
#[derive(Clone, Copy)]
pub struct Term<'a> {
    pub dy: View<'a, bf16>,
    pub w: &'a Weight,
    pub lora: Option<LowRank<'a>>,
}

/// `Segment` of nf4_linear.cu.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct RawSegment {
    a: u64,
    b: u64,
    w: RawNf4,
    k: i32,
    lda: i32,
    ldb: i32,
    unused: i32,
}

/// `Product` of nf4_linear.cu.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct RawProduct {
    segments: [RawSegment; SEGMENTS],
    bias: u64,
    count: i32,
    m: i32,
    n: i32,
    steps: i32,
}

impl RawProduct {
    fn new(m: usize, n: usize) -> Result<Self, ShapeError> {
        let (m, n) = (dimension(OP, "rows", m)?, dimension(OP, "columns", n)?);
        Ok(Self { m, n, ..Self::zeroed() })
    }

    /// Appends a product; one over nothing is left out.
    fn push(&mut self, segment: RawSegment) -> Result<(), ShapeError> {
        if segment.k == 0 {
            return Ok(());
        }
        let count = self.count as usize;
        check_at_least(OP, "room for products", SEGMENTS, count + 1)?;
        self.segments[count] = segment;
        self.count += 1;
        self.steps += (segment.k as usize).div_ceil(DEPTH) as i32;
        Ok(())
    }

    /// The left side times the weight, `k` long.
    fn push_weight(&mut self, a: View<bf16>, w: &Weight, k: usize) -> Result<(), ShapeError> {
        let k = dimension(OP, "features", k)?;
        let (a, ldb) = (aligned("address of x or dy", a)?, dimension(OP, "in_features", w.cols)?);
        self.push(RawSegment { a, w: w.raw(), k, lda: k, ldb, ..RawSegment::zeroed() })
    }

    /// V or U times the adapter's matrix, which has rows of `ldb`.
    fn push_lora(&mut self, lora: &LowRank, right: usize, ldb: usize) -> Result<(), ShapeError> {
        let m = self.m as usize;
        let needed = if m == 0 { 0 } else { (m - 1) * lora.ld + lora.r };
        check_multiple(OP, "rank", lora.r, PITCH)?;
        check_multiple(OP, "pitch of V or U", lora.ld, PITCH)?;
        check_at_least(OP, "pitch of V or U", lora.ld, lora.r)?;
        check_at_least(OP, "len of V or U", lora.left.len(), needed)?;
        check(OP, "len of the adapter matrix", lora.right.len(), right)?;
        self.push(RawSegment {
            a: aligned("address of V or U", lora.left)?,
            b: aligned("address of the adapter matrix", lora.right)?,
            k: dimension(OP, "rank", lora.r)?,
            lda: dimension(OP, "pitch of V or U", lora.ld)?,
            ldb: dimension(OP, "pitch of the adapter matrix", ldb)?,
            ..RawSegment::zeroed()
        })
    }
}

/// y = x·Wᵀ + V·Bᵀ (+ bias), overwriting y `[m, out]`. Up to 16 rows go through the kernel for few rows.
pub fn forward(
    cuda: &Cuda,
    m: usize,
    x: View<bf16>,
    w: &Weight,
    lora: Option<LowRank>,
    bias: Option<View<bf16>>,
    y: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check(OP, "len of x", x.len(), m * w.cols)?;
    check(OP, "len of y", y.len(), m * w.rows)?;
    if let Some(bias) = bias {
        check(OP, "len of bias", bias.len(), w.rows)?;
    }
    let mut product = RawProduct::new(m, w.rows)?;
    product.push_weight(x, w, w.cols)?;
    if let Some(lora) = &lora {
        product.push_lora(lora, w.rows * lora.r, lora.r)?;
    }
    if m == 0 || w.rows == 0 {
        return Ok(());
    }
    product.bias = address_or_null(bias);
    let (kernel, blocks) = match m {
        0..=16 => ("nf4_linear_forward_few", w.rows.div_ceil(FEW.1)),
        _ => ("nf4_linear_forward_128x128", m.div_ceil(TILE) * w.rows.div_ceil(TILE)),
    };
    run(cuda, kernel, blocks, product, y)
}

/// dx = Σ over linears that share x of dy·W + U·A, overwriting dx `[m, in]`. Here out, too, is a multiple of 8.
pub fn backward(
    cuda: &Cuda,
    m: usize,
    terms: &[Term],
    dx: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    let Some(first) = terms.first() else {
        return Ok(check_at_least(OP, "number of terms", 0, 1)?);
    };
    let n_in = first.w.cols;
    check(OP, "len of dx", dx.len(), m * n_in)?;
    let mut product = RawProduct::new(m, n_in)?;
    for term in terms {
        check(OP, "in_features", term.w.cols, n_in)?;
        check(OP, "len of dy", term.dy.len(), m * term.w.rows)?;
        check_multiple(OP, "out_features", term.w.rows, PITCH)?;
        product.push_weight(term.dy, term.w, term.w.rows)?;
        if let Some(lora) = &term.lora {
            product.push_lora(lora, lora.r * n_in, n_in)?;
        }
    }
    if m == 0 || n_in == 0 {
        return Ok(());
    }
    let blocks = m.div_ceil(TILE) * n_in.div_ceil(TILE);
    run(cuda, "nf4_linear_backward_128x128", blocks, product, dx)
}

fn run(
    cuda: &Cuda,
    kernel: &'static str,
    blocks: usize,
    product: RawProduct,
    out: &mut ViewMut<bf16>,
) -> Result<(), LaunchError> {
    check_multiple(OP, "address of the result", out.address() as usize, PAIR)?;
    let grid = [dimension(OP, "blocks", blocks)? as u32, 1, 1];
    let launch = Launch::new(cuda, &SOURCE, kernel, grid, THREADS).value(product).write(out);
    // SAFETY: every length is checked by the callers against the dimensions in `product`, whose addresses are of
    // views that outlive this call; the kernels stay inside m, n, k and the pitches.
    Ok(unsafe { launch.run() }?)
}

/// The address of what is read 16 bytes at a time.
fn aligned(what: &'static str, view: View<bf16>) -> Result<u64, ShapeError> {
    check_multiple(OP, what, view.address() as usize, 16)?;
    Ok(view.address())
}
