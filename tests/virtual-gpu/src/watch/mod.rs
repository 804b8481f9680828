//! The watchman: what compute-sanitizer would find, found while a kernel runs.
//!
//! `race` is what the machine calls: it keeps the clocks of a block's warps (`clocks`), the shadow of its
//! shared memory (`shared`) and its part in the shadow of device memory (`global`), and turns what they
//! find wrong into findings (`finding`), which `report` puts into words.

pub mod clocks;
pub mod finding;
pub mod global;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod oracle_global;
pub mod race;
pub mod report;
pub mod shared;

pub use finding::{Finding, Kind, Log, Place};
