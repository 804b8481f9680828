//! Small kernels, one file for each family of instructions, against values computed by other means.

#[path = "../common/mod.rs"]
mod common;

mod control;
mod gemm;
mod ldmatrix;
mod mma;
mod warp;
