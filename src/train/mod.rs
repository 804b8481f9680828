//! The step, optimizer, schedule, metrics, and a whole run around them.

pub mod base;
pub mod bench;
pub mod bench_data;
pub mod bench_generate;
pub mod device;
pub mod evaluate;
pub mod evaluator;
#[cfg(feature = "cli")]
pub mod plot;
pub mod proof;
pub mod run;
pub mod run_dir;
pub mod schedule;
pub mod trainer;
mod training;

pub use base::Base;
pub use device::{Device, DeviceError};
pub use evaluate::{EvalFile, EvaluateError, EvaluateOptions, Evaluation, RowResult, evaluate};
pub use evaluator::Evaluator;
pub use proof::ProofError;
pub use run::{Outcome, Watch, run_file};
pub use run_dir::{GpuSummary, RunDir, RunDirError, Summary};
pub use schedule::Schedule;
pub use trainer::{StepError, StepReport, Trainer, TrainerOptions};
pub use training::SavedAdapter;
