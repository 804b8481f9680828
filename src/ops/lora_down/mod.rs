//! lora_down: to be written.
