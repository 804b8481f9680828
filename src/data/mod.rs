//! Records → chat template → tokens and loss mask → packed micro-batches.

pub mod batch;
pub mod exact_match;
pub mod orders;
