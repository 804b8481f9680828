//! attention: timing.

fn main() {}
