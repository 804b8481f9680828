//! reduce: timing.

fn main() {}
