//! dayrun: a QLoRA fine-tuning engine. A frozen base model in 4-bit NF4, low-rank adapters
//! trained on top, explicit backward passes, a static step.
//!
//! Data flows one way: `config` → `data` → `model` → `ops` → `device`; `train` drives them.
//! See ARCHITECTURE.md for the map.

pub mod adapter;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
mod error;
pub mod model;
pub mod ops;
pub mod philox;
pub mod progress;
pub mod quant;
pub mod rng;
pub mod train;

pub use error::Error;
