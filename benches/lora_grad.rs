//! lora_grad: timing.

fn main() {}
