//! lora_down: timing.

fn main() {}
