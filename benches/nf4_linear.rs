//! nf4_linear: timing.

fn main() {}
