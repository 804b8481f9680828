//! The run directory: what a run leaves behind.
//!
//! ```text
//! run.toml        the resolved run file
//! metrics.jsonl   one line an update: step, loss, lr, grad_norm, tokens, loss_tokens, seconds
//! dayrun.log      the log
//! adapter/        the adapter, as PEFT has it
//! loss.svg        the loss plot
//! summary.json    the run in figures
//! ```

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::StepReport;
use crate::config::RunFile;

/// Something about the run directory failed.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    #[error("the run directory {} exists and is not empty", path.display())]
    NotEmpty { path: PathBuf },
    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[cfg(feature = "cli")]
    #[error("drawing {}: {message}", path.display())]
    Plot { path: PathBuf, message: String },
}

impl RunDirError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotEmpty { .. } => Some(
                "give another one with --out DIR, or move this one away: runs are never overwritten"
                    .into(),
            ),
            Self::Write { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("the disk is full: free some space".into())
            }
            _ => None,
        }
    }
}

/// What a run came to: summary.json. What was not evaluated is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Real tokens over the seconds of the updates: padding there is none, and loading and
    /// evaluation are not counted.
    pub tokens_per_second: f64,
    /// The same for tokens that the loss counts.
    pub loss_tokens_per_second: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// From the start of loading to the end of the last evaluation.
    pub seconds: f64,
    pub training_seconds: f64,
    /// Mean over the loss tokens of the last update, nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_loss: Option<f64>,
    pub steps: u64,
    pub tokens: u64,
    pub loss_tokens: u64,
    /// The share of the micro-batches' room that real tokens filled.
    pub utilisation: f64,
    pub trainable_parameters: usize,
    pub skipped_rows: usize,
    pub truncated_rows: usize,
    pub device: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSummary>,
    pub threads: usize,
    pub base_model: String,
    pub dayrun_version: String,
    /// Stopped by Ctrl-C.
    pub interrupted: bool,
    /// What ended the run early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match_before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_match_after: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub perplexity_after: Option<f64>,
    /// Figures of whoever drives the run: the quickstart's exact_match_unseen_words and the like.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// The GPU of a run, beside its name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GpuSummary {
    /// The CUDA version that its driver is for: `CUDA 12.9`.
    pub gpu_driver: String,
    pub gpu_memory_bytes: u64,
    /// Free when the run opened it.
    pub gpu_memory_free_bytes: u64,
    /// What the run was held to.
    pub gpu_memory_limit_bytes: u64,
    /// The most that the run had allocated at once.
    pub gpu_memory_peak_bytes: u64,
}

/// An open run directory.
pub struct RunDir {
    path: PathBuf,
    metrics: File,
}

/// One line of metrics.jsonl.
#[derive(Serialize)]
struct Line {
    step: u64,
    loss: f64,
    lr: f64,
    grad_norm: f64,
    tokens: usize,
    loss_tokens: usize,
    seconds: f64,
}

impl RunDir {
    /// Refuses a directory in which something lies already. Called before anything is loaded.
    pub fn check(path: &Path) -> Result<(), RunDirError> {
        let error = |source| RunDirError::Write { path: path.to_path_buf(), source };
        match std::fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(RunDirError::NotEmpty { path: path.to_path_buf() }),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(error(e)),
        }
    }

    /// Makes the directory and writes the resolved run file.
    pub fn create(path: &Path, run: &RunFile) -> Result<Self, RunDirError> {
        Self::check(path)?;
        let error = |path: &Path, source| RunDirError::Write { path: path.to_path_buf(), source };
        std::fs::create_dir_all(path).map_err(|e| error(path, e))?;
        let metrics = path.join("metrics.jsonl");
        let metrics = File::create_new(&metrics).map_err(|e| error(&metrics, e))?;
        let dir = Self { path: path.to_path_buf(), metrics };
        dir.write("run.toml", run.resolved().as_bytes())?;
        Ok(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the adapter goes.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }

    /// Appends an update to metrics.jsonl, at once: a run that dies keeps its metrics.
    pub fn log_step(&mut self, report: &StepReport) -> Result<(), RunDirError> {
        let &StepReport { step, loss, lr, grad_norm, tokens, loss_tokens, seconds } = report;
        let line = Line { step, loss, lr, grad_norm, tokens, loss_tokens, seconds };
        let write = || -> std::io::Result<()> {
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            (&self.metrics).write_all(&text)
        };
        write()
            .map_err(|source| RunDirError::Write { path: self.path.join("metrics.jsonl"), source })
    }

    /// Writes summary.json.
    pub fn write_summary(&self, summary: &Summary) -> Result<(), RunDirError> {
        let text = serde_json::to_string_pretty(summary).unwrap_or_default();
        self.write("summary.json", format!("{text}\n").as_bytes())
    }

    /// Writes a file whole or not at all: temporary name, sync, rename.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<(), RunDirError> {
        let path = self.path.join(name);
        write_whole(&path, content).map_err(|source| RunDirError::Write { path, source })
    }
}

fn write_whole(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".saving-").tempfile_in(dir)?;
    file.write_all(content)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// The most memory that this process has had resident (Linux: VmHWM).
pub fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_directory_is_refused_and_an_empty_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        RunDir::check(&dir.path().join("new")).expect("new");
        RunDir::check(dir.path()).expect("empty");
        let mut run = RunDir::create(&dir.path().join("a/b"), &RunFile::default()).expect("made");
        let error = RunDir::check(run.path()).expect_err("used");
        assert!(error.hint().expect("advice").contains("--out"));
        assert!(RunDir::create(run.path(), &RunFile::default()).is_err());
        let report = StepReport {
            step: 1,
            loss: 2.5,
            lr: 1e-4,
            grad_norm: 0.5,
            tokens: 100,
            loss_tokens: 7,
            seconds: 0.25,
        };
        run.log_step(&report).unwrap();
        run.log_step(&report).unwrap();
        let text = std::fs::read_to_string(run.path().join("metrics.jsonl")).unwrap();
        let line = "{\"step\":1,\"loss\":2.5,\"lr\":0.0001,\"grad_norm\":0.5,\"tokens\":100,\
                    \"loss_tokens\":7,\"seconds\":0.25}\n";
        assert_eq!(text, line.repeat(2));
    }

    #[test]
    fn the_summary_leaves_out_what_was_not_measured() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::create(&dir.path().join("r"), &RunFile::default()).unwrap();
        let mut summary = Summary { exact_match_after: Some(0.95), ..Summary::default() };
        summary.extra.insert("exact_match_unseen_words".into(), 0.8.into());
        run.write_summary(&summary).unwrap();
        let text = std::fs::read_to_string(run.path().join("summary.json")).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["exact_match_after"], 0.95);
        assert_eq!(value["exact_match_unseen_words"], 0.8);
        assert!(value.get("exact_match_before").is_none());
    }

    #[test]
    fn this_process_has_used_some_memory() {
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes().expect("Linux") > 1 << 20);
        }
    }
}
