//! nf4_quantize: timing on a GPU.

fn main() {}
