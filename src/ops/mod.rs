//! Operations: one folder each, with contract, CPU code and a plain f64 reference.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod lora_down;
pub mod lora_grad;
pub mod nf4_linear;
pub mod reduce;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

/// An op was called with buffers or dimensions that do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {what} is {got}, expected {want}")]
pub struct ShapeError {
    pub op: &'static str,
    /// What was checked: `len of dy`, `heads % kv_heads`.
    pub what: &'static str,
    pub got: usize,
    pub want: usize,
}

/// Checks one length or dimension of an op's arguments.
pub fn check(
    op: &'static str,
    what: &'static str,
    got: usize,
    want: usize,
) -> Result<(), ShapeError> {
    if got == want { Ok(()) } else { Err(ShapeError { op, what, got, want }) }
}
