//! The packed micro-batch, as the model takes it.

pub use crate::model::batch::MicroBatch;
