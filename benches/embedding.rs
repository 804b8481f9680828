//! embedding: timing.

fn main() {}
