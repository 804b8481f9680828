//! lora_grad: to be written.
