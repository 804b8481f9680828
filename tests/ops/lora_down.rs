//! lora_down against its f64 reference.
