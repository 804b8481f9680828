//! One test binary for every op: each against its f64 reference.

#[path = "../common/mod.rs"]
mod common;

mod adamw;
mod attention;
mod cross_entropy;
#[cfg(feature = "cuda")]
mod cuda;
mod dropout;
mod embedding;
mod head;
mod linear;
mod lora_down;
mod lora_grad;
mod lora_up;
mod neftune;
mod reduce;
mod rms_norm;
mod rope;
mod swiglu;
