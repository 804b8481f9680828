//! Architectures, weights in, forward and backward of a decoder.

pub mod cache;
pub mod config;
pub mod error;
#[cfg(feature = "gguf")]
pub mod gguf;
pub mod hash;
pub mod hub;
pub mod load;
mod parts;
pub mod weights;

pub use cache::default_dir as default_cache_dir;
pub use error::Error;
pub use load::{LoadOptions, load};
