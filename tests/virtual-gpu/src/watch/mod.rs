//! The watchman: what compute-sanitizer would find, found while a kernel runs.

pub mod finding;
pub mod race;

pub use finding::{Finding, Kind, Log, Place};
