//! The step, optimizer, schedule, checkpoint, memory plan, metrics.

pub mod evaluator;
pub mod trainer;

pub use evaluator::Evaluator;
pub use trainer::{StepError, StepReport, Trainer, TrainerOptions};
