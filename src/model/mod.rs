//! Architectures, weights in, forward and backward of a decoder.

pub mod config;
pub mod weights;
