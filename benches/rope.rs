//! rope: timing.

fn main() {}
