//! LoRA on linear layers; PEFT directories in and out.

mod error;
mod init;
pub mod lora;
pub mod peft;
mod peft_config;
#[cfg(test)]
mod tests;

pub use error::PeftError;
pub use lora::{Adapter, LoraConfig, LoraModule};
pub use peft::BaseModel;
