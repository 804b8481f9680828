//! Architectures, weights in, forward and backward of a decoder.

pub mod batch;
pub mod cache;
pub mod config;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dispatch;
pub mod engine;
pub mod error;
pub mod family;
pub mod generate;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod hash;
pub mod hub;
pub mod inspect;
pub mod kv_cache;
pub mod llama;
pub mod load;
pub mod loaded;
pub mod lora_layout;
mod parts;
pub mod program;
pub mod rope_scaling;
mod run;
#[cfg(feature = "cli")]
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use cache::default_dir as default_cache_dir;
pub use dispatch::{Dispatch, LinearDispatch};
pub use engine::{Engine, EngineError};
pub use error::Error;
pub use load::{Linears, LoadOptions, load};
pub use loaded::Loaded;
