//! The tensor-core GEMM: `C[m, n] = alpha · Σ_s A_s·op(B_s) (+ bias[n])`, several products in one f32 sum.
//!
//! Shapes: each A_s `[m, k_s]`; B_s `[n, k_s]` and op the transpose (`nt`), or B_s `[k_s, n]` as it is
//! (`nn`); all row-major at pitches of their own. m, n and every k_s are any numbers.
//! Dtypes: bf16 in, f32 sums in the products' order, rounded once to bf16, or not at all (logits).
//! Errors: [`ShapeError`](super::ShapeError) when buffers, pitches or alignments do not fit.
//!
//! Base and adapter of a linear are two products of one call, `[x | V]·[W | B]ᵀ`, and the input gradient of
//! q, k and v is six: nothing is copied side by side, C is written once and rounded once. On the CPU each
//! op has its own call of the tile GEMM in `device::cpu`, so there is no twin here.

#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;
