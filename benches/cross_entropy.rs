//! cross_entropy: timing.

fn main() {}
