//! The updates of a run: what they come to, and the adapter that is always on the disk.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::proof::{GradientWatch, ProofError, attends};
use super::run::Watch;
use super::{RunDir, Schedule, Trainer};
use crate::Error;
use crate::adapter::{Adapter, BaseModel, peft};
use crate::config::RunFile;
use crate::data::Dataset;
use crate::data::batch::MicroBatch;
use crate::data::pack::Epoch;
use crate::device::cpu::GemmElement;
use crate::model::config::LlamaConfig;

/// Which adapter a run that ended early has left: of the last update that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedAdapter {
    /// 0: the one it began with. `None`: none could be saved.
    pub step: Option<u64>,
    pub path: PathBuf,
}

impl fmt::Display for SavedAdapter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let path = self.path.display();
        match self.step {
            None => write!(f, "nothing has been trained and no adapter saved"),
            Some(0) => write!(f, "nothing has been trained: {path} holds the starting adapter"),
            Some(step) => write!(f, "the adapter of step {step} is in {path}"),
        }
    }
}

/// The micro-batches of an epoch, in order.
pub(super) fn epoch(run: &RunFile, dataset: &Dataset, epoch: u64) -> Result<Epoch, Error> {
    Ok(Epoch::new(dataset, run.train.micro_batch_tokens, run.train.seed, epoch)?)
}

/// What the updates have come to so far.
pub(super) struct Training {
    pub dir: RunDir,
    /// What is written beside the adapter.
    about: BaseModel,
    /// The update whose adapter is on the disk.
    saved: Option<u64>,
    pub losses: Vec<(u64, f64)>,
    pub tokens: u64,
    pub loss_tokens: u64,
    pub seconds: f64,
    pub batches: u64,
    pub interrupted: bool,
}

impl Training {
    /// Before the first update.
    pub fn new(dir: RunDir, about: BaseModel) -> Self {
        Self {
            dir,
            about,
            saved: None,
            losses: Vec::new(),
            tokens: 0,
            loss_tokens: 0,
            seconds: 0.0,
            batches: 0,
            interrupted: false,
        }
    }

    /// The error that ends the run, with what it leaves.
    pub fn halted(&self, error: Error) -> Error {
        let adapter = SavedAdapter { step: self.saved, path: self.dir.adapter() };
        Error::Halted { error: Box::new(error), adapter }
    }

    /// Saves the adapter of `step`.
    pub fn save(&mut self, adapter: &Adapter, step: u64) -> Result<(), Error> {
        let path = self.dir.adapter();
        if let Err(error) = peft::save(adapter, &path, &self.about) {
            // Removes it only if nothing is in it: a directory without an adapter misleads.
            let _ = std::fs::remove_dir(&path);
            return Err(error.into());
        }
        self.saved = Some(step);
        Ok(())
    }

    /// Updates until the schedule's end or a stop. `first` are the micro-batches of epoch 0.
    pub fn train<E: GemmElement>(
        &mut self,
        run: &RunFile,
        dataset: &Dataset,
        first: Epoch,
        schedule: &Schedule,
        trainer: &mut Trainer<E>,
        watch: &Watch,
    ) -> Result<(), Error> {
        let mut gradients = GradientWatch::new(trainer.adapter()?);
        let mut first = Some(first);
        let accumulation = run.train.gradient_accumulation;
        let mut group = vec![MicroBatch::default(); accumulation];
        for e in 0.. {
            if trainer.steps() == schedule.total {
                return Ok(());
            }
            let batches = match first.take() {
                Some(batches) => batches,
                None => epoch(run, dataset, e)?,
            };
            tracing::info!(
                "epoch {}: {} micro-batches, {:.1} % full",
                e + 1,
                batches.len(),
                100.0 * batches.utilisation()
            );
            for first in (0..batches.len()).step_by(accumulation) {
                if trainer.steps() == schedule.total {
                    return Ok(());
                }
                if watch.stop.load(Ordering::Relaxed) {
                    self.interrupted = true;
                    return Ok(());
                }
                let group = &mut group[..accumulation.min(batches.len() - first)];
                for (i, batch) in group.iter_mut().enumerate() {
                    batches.fill(first + i, &dataset.documents, batch)?;
                }
                let group = &*group;
                let lr = schedule.lr(trainer.steps());
                let report = trainer.step(group, lr)?;
                self.losses.push((report.step, report.loss));
                self.tokens += report.tokens as u64;
                self.loss_tokens += report.loss_tokens as u64;
                self.seconds += report.seconds;
                self.batches += group.len() as u64;
                self.dir.log_step(&report)?;
                if !gradients.is_done() {
                    gradients.saw(trainer.gradients()?, lr, attends(group))?;
                }
                tracing::debug!("{report:?}");
                (watch.on_step)(&report, schedule.total);
                let every = run.train.save_every;
                if every > 0 && report.step % every == 0 && report.step < schedule.total {
                    trainer.check_parameters(report.step)?;
                    self.save(trainer.adapter()?, report.step)?;
                    tracing::info!("step {}: adapter saved", report.step);
                }
            }
            if batches.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// After the last update, whatever ended them: saves and checks the adapter, draws the plot.
    pub fn finish<E: GemmElement>(
        &mut self,
        trainer: &mut Trainer<E>,
        model: &LlamaConfig,
    ) -> Result<(), Error> {
        let saved = self.save_last(trainer, model);
        #[cfg(feature = "cli")]
        super::plot::write_loss_plot(
            &self.dir.path().join("loss.svg"),
            "Training loss",
            &self.losses,
        )?;
        saved
    }

    fn save_last<E: GemmElement>(
        &mut self,
        trainer: &mut Trainer<E>,
        model: &LlamaConfig,
    ) -> Result<(), Error> {
        // What is not finite never takes the place of what is.
        trainer.check_parameters(trainer.steps())?;
        let steps = trainer.steps();
        if self.saved != Some(steps) {
            self.save(trainer.adapter()?, steps)?;
        }
        check_saved(trainer.adapter()?, &peft::load(&self.dir.adapter(), model, &self.about.name)?)
    }
}

/// What is on disk is what was trained, and nothing else.
fn check_saved(adapter: &Adapter, saved: &Adapter) -> Result<(), Error> {
    let same_bits = |a: &[f32], b: &[f32]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
    };
    if saved.config != adapter.config || saved.modules != adapter.modules {
        return Err(ProofError::SavedAdapter { what: "its configuration" }.into());
    }
    if !same_bits(&saved.params, &adapter.params) {
        return Err(ProofError::SavedAdapter { what: "a value" }.into());
    }
    Ok(())
}
