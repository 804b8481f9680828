//! Operations: one folder each, with contract, CPU code and a plain f64 reference.
//!
//! An op checks its arguments, then runs on buffers that the caller owns: it allocates nothing.
//! Work is cut into blocks by shape, never by the number of threads.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
pub mod gemm_bf16;
pub mod head;
pub mod linear;
pub mod lora_down;
pub mod lora_grad;
pub mod lora_up;
pub mod neftune;
pub mod nf4_dequantize;
pub mod nf4_linear;
pub mod nf4_quantize;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

/// An op was called with buffers, dimensions or indices that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {what} is {got}, expected {want}")]
pub struct ShapeError {
    pub op: &'static str,
    /// What was checked: `len of dy`, `heads % kv_heads`, `token id`.
    pub what: &'static str,
    pub got: usize,
    pub want: Want,
}

/// A kernel could not be launched: its arguments do not fit together, or the device refused.
#[cfg(feature = "cuda")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Shape(#[from] ShapeError),
    #[error(transparent)]
    Cuda(#[from] crate::device::cuda::CudaError),
}

/// The kernels that running a model takes.
#[cfg(feature = "cuda")]
pub fn cuda_sources() -> [&'static crate::device::cuda::Source; 15] {
    [
        &adamw::cuda::SOURCE,
        &attention::cuda::SOURCE,
        &attention::cuda::BACKWARD_SOURCE,
        &cross_entropy::cuda::SOURCE,
        &dropout::cuda::SOURCE,
        &embedding::cuda::SOURCE,
        &gemm_bf16::cuda::SOURCE,
        &lora_grad::cuda::SOURCE,
        &neftune::cuda::SOURCE,
        &nf4_dequantize::cuda::SOURCE,
        &nf4_linear::cuda::SOURCE,
        &reduce::cuda::SOURCE,
        &rms_norm::cuda::SOURCE,
        &rope::cuda::SOURCE,
        &swiglu::cuda::SOURCE,
    ]
}

/// A dimension as kernels take it, an `int`.
#[cfg(feature = "cuda")]
pub fn dimension(op: &'static str, what: &'static str, n: usize) -> Result<i32, ShapeError> {
    let limit = i32::MAX as usize;
    i32::try_from(n).map_err(|_| ShapeError { op, what, got: n, want: Want::Below(limit) })
}

/// Checks that a pitch or an address is a multiple of `n`, as 16-byte accesses need.
#[cfg(feature = "cuda")]
pub fn check_multiple(
    op: &'static str,
    what: &'static str,
    got: usize,
    n: usize,
) -> Result<(), ShapeError> {
    let want = Want::MultipleOf(n);
    if got.is_multiple_of(n) { Ok(()) } else { Err(ShapeError { op, what, got, want }) }
}

/// What a checked number should have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Exactly(usize),
    AtLeast(usize),
    Below(usize),
    MultipleOf(usize),
    Either(usize, usize),
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Want::Exactly(n) => write!(f, "{n}"),
            Want::AtLeast(n) => write!(f, "{n} or more"),
            Want::Below(n) => write!(f, "less than {n}"),
            Want::MultipleOf(n) => write!(f, "a multiple of {n}"),
            Want::Either(a, b) => write!(f, "{a} or {b}"),
        }
    }
}

/// Checks one length or dimension of an op's arguments.
pub fn check(
    op: &'static str,
    what: &'static str,
    got: usize,
    want: usize,
) -> Result<(), ShapeError> {
    if got == want { Ok(()) } else { Err(ShapeError { op, what, got, want: Want::Exactly(want) }) }
}

/// Checks that a dimension is `min` or more.
pub fn check_at_least(
    op: &'static str,
    what: &'static str,
    got: usize,
    min: usize,
) -> Result<(), ShapeError> {
    if got >= min { Ok(()) } else { Err(ShapeError { op, what, got, want: Want::AtLeast(min) }) }
}

/// Checks that every index (token id, position) is below `limit`; the first that is not is named.
pub fn check_all_below(
    op: &'static str,
    what: &'static str,
    indices: &[u32],
    limit: usize,
) -> Result<(), ShapeError> {
    match indices.iter().find(|&&index| index as usize >= limit) {
        None => Ok(()),
        Some(&index) => Err(ShapeError { op, what, got: index as usize, want: Want::Below(limit) }),
    }
}

/// The number of rows of `cols` elements in a buffer of `len`: `len` must be a whole number of
/// rows and `cols` at least 1.
pub fn rows(
    op: &'static str,
    what: &'static str,
    len: usize,
    cols: usize,
) -> Result<usize, ShapeError> {
    check_at_least(op, "columns of a row", cols, 1)?;
    if !len.is_multiple_of(cols) {
        return Err(ShapeError { op, what, got: len, want: Want::MultipleOf(cols) });
    }
    Ok(len / cols)
}
