//! The GEMM on the GPU: kernels/gemm_bf16.cu. Shapes as in the op's own page.

use bytemuck::{Pod, Zeroable};
use half::bf16;

use crate::device::cuda::{Cuda, Launch, Source, View, ViewMut};
use crate::ops::nf4_dequantize::cuda::address_or_null;
use crate::ops::{LaunchError, ShapeError, Want, check, check_at_least, check_multiple, dimension};

const OP: &str = "gemm_bf16";

/// The kernels of this op.
pub const SOURCE: Source =
    Source { name: OP, ptx: include_str!("../../../kernels/ptx/gemm_bf16.ptx") };

/// Most products of one call (SEGMENTS in gemm_bf16.cu).
pub const SEGMENTS: usize = 6;
/// Threads of a block (THREADS in gemm_bf16.cu).
const THREADS: u32 = 256;
/// k of a step of the main loop (DEPTH in gemm_bf16.cu).
const DEPTH: usize = 32;
/// Elements of bf16 in 16 bytes: what pitches are multiples of.
pub const PITCH: usize = 8;

/// What a message says of each matrix.
const A: [&str; 3] = ["pitch of a", "len of a", "address of a"];
const B: [&str; 3] = ["pitch of b", "len of b", "address of b"];
const C: [&str; 3] = ["pitch of c", "len of c", "address of c"];

/// One product: A `[m, k]` at pitch `lda`, B `[n, k]` (nt) or `[k, n]` (nn) at pitch `ldb`.
///
/// The last row of each may end where its elements end. Both begin at a multiple of 16 bytes.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub a: View<'a, bf16>,
    pub lda: usize,
    pub b: View<'a, bf16>,
    pub ldb: usize,
    pub k: usize,
}

/// `Segment` of gemm_bf16.cu.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct RawSegment {
    a: u64,
    b: u64,
    k: i32,
    lda: i32,
    ldb: i32,
    unused: i32,
}

/// `Product` of gemm_bf16.cu.
#[derive(Clone, Copy, Zeroable, Pod)]
#[repr(C)]
struct RawProduct {
    segments: [RawSegment; SEGMENTS],
    bias: u64,
    count: i32,
    m: i32,
    n: i32,
    ldc: i32,
    alpha: f32,
    steps: i32,
}

/// What a call computes, but for its products.
#[derive(Clone, Copy)]
struct Call<'a> {
    /// The kernels for each tile, in the order of [`Tile`].
    kernels: [&'static str; 3],
    m: usize,
    n: usize,
    alpha: f32,
    bias: Option<View<'a, bf16>>,
}

/// A kernel's tile of C: rows, columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tile {
    /// 128 x 128: the most products for what is loaded.
    Large,
    /// 64 x 64: a narrow or a small C, whose large tiles would be mostly edge.
    Small,
    /// 16 x 128: as many rows as one tensor-core instruction has.
    Flat,
}

impl Tile {
    /// The rule: up to 16 rows flat; up to 64 rows or columns small; else large.
    fn of(m: usize, n: usize) -> Self {
        match (m, n) {
            (..=16, _) => Tile::Flat,
            (..=64, _) | (_, ..=64) => Tile::Small,
            _ => Tile::Large,
        }
    }

    fn shape(self) -> (usize, usize) {
        match self {
            Tile::Large => (128, 128),
            Tile::Small => (64, 64),
            Tile::Flat => (16, 128),
        }
    }
}

/// `C = alpha · Σ A·Bᵀ (+ bias)` in bf16, overwriting C `[m, n]` at pitch `ldc` and nothing between its rows.
///
/// The bias `[n]` joins the sum in f32, before the one rounding; alpha is not its factor.
#[allow(clippy::too_many_arguments)]
pub fn nt(
    cuda: &Cuda,
    m: usize,
    n: usize,
    alpha: f32,
    segments: &[Segment],
    bias: Option<View<bf16>>,
    c: &mut ViewMut<bf16>,
    ldc: usize,
) -> Result<(), LaunchError> {
    let kernels = ["gemm_bf16_nt_128x128", "gemm_bf16_nt_64x64", "gemm_bf16_nt_16x128"];
    let b = |s: &Segment| (n, s.k);
    launch(cuda, Call { kernels, m, n, alpha, bias }, segments, b, c, ldc)
}

/// As [`nt`], with C in f32: nothing is rounded but the sums.
pub fn nt_f32(
    cuda: &Cuda,
    m: usize,
    n: usize,
    alpha: f32,
    segments: &[Segment],
    c: &mut ViewMut<f32>,
    ldc: usize,
) -> Result<(), LaunchError> {
    let kernels = ["gemm_bf16_nt_f32_128x128", "gemm_bf16_nt_f32_64x64", "gemm_bf16_nt_f32_16x128"];
    let b = |s: &Segment| (n, s.k);
    launch(cuda, Call { kernels, m, n, alpha, bias: None }, segments, b, c, ldc)
}

/// `C = alpha · Σ A·B` in bf16, overwriting C `[m, n]` at pitch `ldc` and nothing between its rows.
pub fn nn(
    cuda: &Cuda,
    m: usize,
    n: usize,
    alpha: f32,
    segments: &[Segment],
    c: &mut ViewMut<bf16>,
    ldc: usize,
) -> Result<(), LaunchError> {
    let kernels = ["gemm_bf16_nn_128x128", "gemm_bf16_nn_64x64", "gemm_bf16_nn_16x128"];
    let b = |s: &Segment| (s.k, n);
    launch(cuda, Call { kernels, m, n, alpha, bias: None }, segments, b, c, ldc)
}

/// Checks, packs the arguments and runs the kernel for the tile that fits; `b_shape` gives B's rows and columns.
fn launch<T: Pod>(
    cuda: &Cuda,
    call: Call,
    segments: &[Segment],
    b_shape: impl Fn(&Segment) -> (usize, usize),
    c: &mut ViewMut<T>,
    ldc: usize,
) -> Result<(), LaunchError> {
    let Call { kernels, m, n, alpha, bias } = call;
    check_matrix(C, m, n, ldc, c.len(), c.address())?;
    if let Some(bias) = bias {
        check(OP, "len of bias", bias.len(), n)?;
    }
    let mut product = RawProduct::zeroed();
    (product.m, product.n) = (dimension(OP, "m", m)?, dimension(OP, "n", n)?);
    (product.ldc, product.alpha) = (dimension(OP, "pitch of c", ldc)?, alpha);
    product.bias = address_or_null(bias);
    let mut steps = 0;
    for s in segments.iter().filter(|s| s.k > 0) {
        let (b_rows, b_columns) = b_shape(s);
        check_matrix(A, m, s.k, s.lda, s.a.len(), s.a.address())?;
        check_matrix(B, b_rows, b_columns, s.ldb, s.b.len(), s.b.address())?;
        let raw = RawSegment {
            a: s.a.address(),
            b: s.b.address(),
            k: dimension(OP, "k", s.k)?,
            lda: dimension(OP, "pitch of a", s.lda)?,
            ldb: dimension(OP, "pitch of b", s.ldb)?,
            unused: 0,
        };
        let Some(place) = product.segments.get_mut(product.count as usize) else {
            let want = Want::Below(SEGMENTS + 1);
            return Err(ShapeError { op: OP, what: "products", got: segments.len(), want }.into());
        };
        *place = raw;
        product.count += 1;
        steps += s.k.div_ceil(DEPTH);
    }
    product.steps = dimension(OP, "steps", steps)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let tile = Tile::of(m, n);
    let (rows, columns) = tile.shape();
    let blocks = dimension(OP, "tiles", m.div_ceil(rows) * n.div_ceil(columns))?;
    let launch = Launch::new(cuda, &SOURCE, kernels[tile as usize], [blocks as u32, 1, 1], THREADS);
    // SAFETY: every matrix lies inside its view at its pitch and alignment, as checked above; the
    // structs are the kernel's own; blocks write different tiles of C.
    Ok(unsafe { launch.value(product).write(c).run() }?)
}

/// Checks that `[rows, columns]` at pitch `ld` lies inside `len` elements, and that 16 bytes may be accessed at once.
fn check_matrix(
    [pitch, length, start]: [&'static str; 3],
    rows: usize,
    columns: usize,
    ld: usize,
    len: usize,
    address: u64,
) -> Result<(), ShapeError> {
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    check_multiple(OP, pitch, ld, PITCH)?;
    check_at_least(OP, pitch, ld, columns)?;
    let needed = (rows - 1).saturating_mul(ld).saturating_add(columns);
    check_at_least(OP, length, len, needed)?;
    check_multiple(OP, start, address as usize, 16)
}
