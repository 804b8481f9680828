//! Progress on standard error: bars on a terminal, now and then a line elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::progress::Progress;
use crate::train::StepReport;

/// Seconds between two lines of one stage where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Standard error, and the bar that is on it now.
#[derive(Clone)]
pub struct Terminal {
    bars: MultiProgress,
    state: Arc<Mutex<State>>,
    interactive: bool,
}

#[derive(Default)]
struct State {
    stage: &'static str,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Terminal {
    /// Draws bars if standard error is a terminal.
    pub fn new() -> Self {
        Self {
            bars: MultiProgress::new(),
            state: Arc::default(),
            interactive: std::io::stderr().is_terminal(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how far a stage is.
    pub fn report(&self, progress: Progress) {
        let Progress { stage, done, total, unit } = progress;
        let mut state = self.state();
        if !self.interactive {
            let finished = total > 0 && done >= total;
            if state.stage != stage {
                *state = State { stage, bar: None, last_line: Some(Instant::now()) };
                eprintln!("{stage} ...");
            } else if !finished && state.last_line.is_some_and(|t| t.elapsed() >= QUIET) {
                state.last_line = Some(Instant::now());
                eprintln!("{stage}: {}", amount(done, total, unit));
            }
            return;
        }
        if state.stage != stage || state.bar.is_none() {
            self.replace(&mut state, stage, total, unit);
        }
        if let Some(bar) = &state.bar {
            if total > 0 {
                bar.set_length(total);
            }
            bar.set_position(done);
        }
    }

    /// Shows an update of the training.
    pub fn step(&self, report: &StepReport, total: u64) {
        let speed = report.tokens as f64 / report.seconds.max(1e-9);
        let text = format!(
            "loss {:.4}  lr {:.2e}  |g| {:.2}  {speed:.0} tok/s",
            report.loss, report.lr, report.grad_norm
        );
        let mut state = self.state();
        if !self.interactive {
            let due = state.last_line.is_none_or(|t| t.elapsed() >= QUIET);
            if state.stage != "training" || due || report.step == total {
                *state = State { stage: "training", bar: None, last_line: Some(Instant::now()) };
                eprintln!("step {}/{total}  {text}", report.step);
            }
            return;
        }
        if state.stage != "training" || state.bar.is_none() {
            self.replace(&mut state, "training", total, "updates");
        }
        if let Some(bar) = &state.bar {
            bar.set_length(total);
            bar.set_position(report.step);
            bar.set_message(text);
        }
    }

    fn replace(&self, state: &mut State, stage: &'static str, total: u64, unit: &'static str) {
        if let Some(old) = state.bar.take() {
            old.finish_and_clear();
        }
        let position = if unit == "bytes" { "{bytes}/{total_bytes}" } else { "{pos}/{len}" };
        let template = if total > 0 {
            format!("{{prefix:>20}} {{wide_bar:.cyan/dim}} {position} {{eta}} {{msg}}")
        } else {
            "{prefix:>20} {spinner} {pos} {msg}".to_string()
        };
        // The template is ours: if it did not parse, the default one would do.
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bars.add(ProgressBar::new(total).with_style(style.progress_chars("━━─")));
        bar.set_prefix(stage);
        state.bar = Some(bar);
        state.stage = stage;
    }

    /// The stage that was reported last.
    pub fn stage(&self) -> &'static str {
        self.state().stage
    }

    /// A line that stays.
    pub fn note(&self, text: &str) {
        self.bars.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        if let Some(bar) = self.state().bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

/// `12 of 40 rows`.
fn amount(done: u64, total: u64, unit: &str) -> String {
    match (unit, total) {
        ("bytes", 0) => format!("{} MB", done / 1_000_000),
        ("bytes", _) => format!("{} of {} MB", done / 1_000_000, total.div_ceil(1_000_000)),
        (_, 0) => format!("{done} {unit}"),
        _ => format!("{done} of {total} {unit}"),
    }
}

/// Log lines go above the bar.
impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bars.suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}
