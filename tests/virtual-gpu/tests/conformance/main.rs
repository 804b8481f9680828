//! Small kernels, one file for each family of instructions, against values computed by other means.

#[path = "../common/mod.rs"]
mod common;

mod approximations;
mod atomics;
mod compare;
mod control;
mod convert;
mod exact;
mod float;
mod gemm;
mod integer;
mod integer_bits;
mod ldmatrix;
mod loading;
mod memory;
mod mma;
mod schedules;
mod warp;
mod wmma;
