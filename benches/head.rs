//! head: timing.

fn main() {}
