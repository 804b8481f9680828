//! Weights to NF4 with double quantisation, on the GPU; the CPU's is [`crate::quant::quantise`].
//!
//! ```text
//! absmax = max |x| over a block of 64      code = #{ t : x · (1/absmax) > t }, t: the midpoints of the codebook
//! offset = mean(absmax)                    scale code = nearest dynamic-map entry to (absmax - offset)/absmax2
//! ```
//!
//! Shapes: x `[n]` f32 or bf16, a matrix flattened row-major; codes `[n / 2]` bytes, absmax `[n / 64]`, both rounded
//! up; scale codes as absmax, absmax2 one for 256. Bytes are those of `quant::quantise` and `double_quantise`, but for
//! the mean: it is summed in f64 in another order, and for fewer than 2^26 scales it is the CPU's f32 or a neighbour of it.
//! A NaN or an infinity among the weights makes its block's absmax NaN or infinite: the caller looks.
//! Source: Dettmers et al. 2023 (arXiv 2305.14314), section 3.

#[cfg(feature = "cuda")]
pub mod cuda;
#[doc(hidden)]
pub mod reference;
