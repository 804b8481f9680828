//! The step, optimizer, schedule, checkpoint, memory plan, metrics.

pub mod trainer;

pub use trainer::{StepError, StepReport, Trainer, TrainerOptions};
