//! The whole model on a tiny random Llama: forward, gradients, training, generation, each against
//! a plain f64 model written here or against itself run another way.

#[path = "../common/mod.rs"]
mod common;

#[cfg(feature = "cuda")]
mod cuda;
mod families;
mod forward;
mod generate;
mod gradients;
mod reference;
mod tiny;
mod trainer;
