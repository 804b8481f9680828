//! nf4_dequantize: timing on a GPU.

fn main() {}
