//! lora_grad against its f64 reference.
