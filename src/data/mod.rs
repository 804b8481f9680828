//! Records → chat template → tokens and loss mask → packed micro-batches.

pub mod batch;
pub mod dataset;
pub mod encode;
mod error;
pub mod exact_match;
pub mod orders;
pub mod pack;
mod python;
pub mod records;
pub mod template;

pub use dataset::{DataOptions, DataStats, Dataset, Document, EvalRow, load, load_eval};
pub use error::Error;
