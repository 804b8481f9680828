//! rms_norm: timing.

fn main() {}
