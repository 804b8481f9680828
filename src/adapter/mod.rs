//! LoRA on linear layers; PEFT directories in and out.

pub mod lora;

pub use lora::{Adapter, LoraConfig, LoraModule};
