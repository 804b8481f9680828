//! The CUDA driver API: what a program finds when it loads `libcuda.so`.
//!
//! One file for each of the API's chapters, and three that carry them: `abi` (what crosses the C
//! interface), `handle` (tables of objects) and `state` (the driver, its contexts, the current one).
//! Work is done at the call that submits it (`work`), so streams and events are handles with an order to
//! them; a kernel's fault is kept in its context and returned by every call after the launch. What is
//! not implemented returns CUDA_ERROR_NOT_SUPPORTED and says so on stderr (`unsupported`).
//!
//! Exported functions are named as C names them.
#![allow(non_snake_case)]
// Arguments are as many as the API has.
#![allow(clippy::too_many_arguments)]

mod abi;
mod allocation;
mod attributes;
mod capture;
mod capture_api;
mod context;
mod copy;
pub mod device;
mod entry;
mod error;
mod event;
mod fatbin;
mod fault;
mod function;
mod graph;
mod graph_build;
mod graph_exec;
mod graph_params;
mod graph_query;
mod handle;
mod host;
mod image;
mod join;
mod launch;
mod library;
mod limits;
mod link;
mod memory;
mod module;
mod occupancy;
mod per_thread;
mod pointer;
mod pool;
mod set;
mod state;
mod stream;
mod unsupported;
mod work;
