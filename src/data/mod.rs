//! Records → chat template → tokens and loss mask → packed micro-batches.

mod assistant;
pub mod batch;
pub mod columns;
pub mod dataset;
pub mod encode;
mod error;
pub mod exact_match;
pub mod files;
mod generation;
pub mod mix;
pub mod named;
mod options;
pub mod orders;
pub mod pack;
pub mod preview;
mod python;
pub mod records;
pub mod rows;
pub mod statistics;
pub mod store;
pub mod template;
mod turns;

pub use columns::Columns;
pub use dataset::{Dataset, Document, EvalRow, Set, first_record, load, load_eval};
pub use error::{Error, Place, RowProblem};
pub use mix::{HeldOut, Source};
pub use options::{DataOptions, OnBadRow, TooLong};
pub use statistics::Statistics;
pub use store::TokenStore;
