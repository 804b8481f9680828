//! Records → chat template → tokens and loss mask → packed micro-batches.

pub mod batch;
