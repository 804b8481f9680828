//! The quantised, adapted linear on a GPU, straight from NF4: y = x·Wᵀ + V·Bᵀ (+ bias), and its dx.
//!
//! The contract is that of [`linear`](super::linear) for a weight in NF4, with activations in bf16. On the CPU
//! that op itself decodes panels; on a GPU a weight in bf16 goes through [`gemm_bf16`](super::gemm_bf16).

#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;
