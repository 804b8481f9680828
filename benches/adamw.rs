//! adamw: timing.

fn main() {}
