//! gemm_bf16: timing on a GPU.

fn main() {}
