//! NF4 to bf16: `W[o, i] = round_bf16(codebook[code(o, i)] · scale(block(o, i)))`, on the GPU only (the CPU decodes a
//! panel at a time inside its linear).
//!
//! Shapes: an [`Nf4Matrix`](crate::quant::Nf4Matrix) `[out, in]` on the device, `in` a multiple of 8 → bf16
//! `[out, in]` at a pitch `ld >= in`, so that an adapter's columns or rows fit behind. Exact: the f32 product is
//! rounded once, and nested scales are a rounded product and a rounded sum, as bitsandbytes makes them.
//! Source: Dettmers et al. 2023 (arXiv 2305.14314), equation 6.

#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;
