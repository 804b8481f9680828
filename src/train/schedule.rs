//! The learning rate of each update: warm-up, then cosine, linear or constant.
//!
//! With k counting updates from 0, W the warm-up and N all updates:
//!
//! - k < W: peak · (k + 1) / W, so that the first update already learns (transformers has k / W,
//!   whose first update has a rate of zero);
//! - after it, with p = (k − W) / (N − W): constant: peak; linear: peak · (1 − p); cosine:
//!   peak · (1 + cos πp) / 2 (Loshchilov and Hutter 2016, arXiv 1608.03983, eq. 5). These are
//!   transformers' own.

use crate::config::{ScheduleKind, Train};

/// A schedule: a function of the update's number and of the planned updates, of nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub kind: ScheduleKind,
    pub peak: f64,
    pub warmup: u64,
    pub total: u64,
}

impl Schedule {
    /// The schedule of a run file over `total` updates.
    pub fn new(train: &Train, total: u64) -> Self {
        Self {
            kind: train.schedule,
            peak: train.learning_rate,
            warmup: train.warmup.steps(total),
            total,
        }
    }

    /// The rate of update `k`, the first being 0. Beyond `total` it stays where it ended.
    pub fn lr(&self, k: u64) -> f64 {
        if k < self.warmup {
            return self.peak * (k + 1) as f64 / self.warmup as f64;
        }
        let rest = self.total.saturating_sub(self.warmup).max(1);
        let p = ((k - self.warmup) as f64 / rest as f64).min(1.0);
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => self.peak * (1.0 - p),
            ScheduleKind::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * p).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Warmup;

    fn schedule(kind: ScheduleKind, warmup: u64, total: u64) -> Schedule {
        Schedule { kind, peak: 2e-4, warmup, total }
    }

    fn close(got: f64, want: f64) {
        // A handful of f64 operations on values below 1.
        assert!((got - want).abs() <= 8.0 * f64::EPSILON, "{got} is not {want}");
    }

    #[test]
    fn warmup_rises_from_the_first_update() {
        let s = schedule(ScheduleKind::Cosine, 4, 20);
        for (k, share) in [0.25, 0.5, 0.75, 1.0].into_iter().enumerate() {
            close(s.lr(k as u64), 2e-4 * share);
        }
        close(schedule(ScheduleKind::Linear, 0, 10).lr(0), 2e-4);
    }

    /// transformers' `get_scheduler` at num_warmup_steps 4, num_training_steps 20, lr 2e-4.
    #[test]
    fn after_the_warmup_as_transformers() {
        for (kind, k, want) in [
            (ScheduleKind::Cosine, 4, 2e-4),
            (ScheduleKind::Cosine, 8, 1.7071067811865476e-4),
            (ScheduleKind::Cosine, 12, 1e-4),
            (ScheduleKind::Cosine, 19, 1.921471959676957e-6),
            (ScheduleKind::Linear, 4, 2e-4),
            (ScheduleKind::Linear, 8, 1.5e-4),
            (ScheduleKind::Linear, 19, 1.25e-5),
            (ScheduleKind::Constant, 19, 2e-4),
        ] {
            close(schedule(kind, 4, 20).lr(k), want);
        }
    }

    #[test]
    fn ends_and_degenerate_lengths() {
        close(schedule(ScheduleKind::Linear, 4, 20).lr(20), 0.0);
        close(schedule(ScheduleKind::Cosine, 4, 20).lr(1000), 0.0);
        // A warm-up as long as the run, or longer, never divides by zero.
        close(schedule(ScheduleKind::Cosine, 20, 20).lr(19), 2e-4);
        close(schedule(ScheduleKind::Linear, 40, 20).lr(19), 1e-4);
        close(schedule(ScheduleKind::Cosine, 0, 0).lr(0), 2e-4);
        assert_eq!(Warmup::Ratio(0.03).steps(100), 3);
        assert_eq!(Warmup::Ratio(0.031).steps(100), 4);
        assert_eq!(Warmup::Steps(7).steps(3), 7);
    }
}
