//! swiglu: timing.

fn main() {}
