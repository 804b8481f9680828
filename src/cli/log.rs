//! The log: warnings on the terminal, everything in the run directory's log file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::Terminal;

/// Lines kept for a log file that does not exist yet.
const MOST_KEPT: usize = 1 << 20;

/// The target of what the terminal shows in another way.
pub(super) const FILE_ONLY: &str = "dayrun::file_only";

/// The log file, which may be attached later than the first line is written.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Sink>>);

#[derive(Default)]
struct Sink {
    file: Option<File>,
    kept: Vec<u8>,
}

impl Log {
    /// Starts logging. `verbose` 0: warnings on the terminal, 1: information, 2: every update.
    pub fn start(verbose: u8, terminal: &Terminal) -> Self {
        let log = Log::default();
        let level = match verbose {
            0 => LevelFilter::WARN,
            1 => LevelFilter::INFO,
            _ => LevelFilter::DEBUG,
        };
        let (terminal, file) = (terminal.clone(), log.clone());
        let screen = fmt::layer()
            .with_writer(move || terminal.clone())
            .with_target(false)
            .without_time()
            .with_filter(
                Targets::new().with_default(level).with_target(FILE_ONLY, LevelFilter::OFF),
            );
        let file = fmt::layer()
            .with_writer(move || file.clone())
            .with_ansi(false)
            .with_filter(LevelFilter::DEBUG);
        // Only a second call in one process fails: the first log goes on then.
        let _ = tracing_subscriber::registry().with(screen).with(file).try_init();
        log
    }

    /// Writes what has been logged so far, and all that follows, to `dir`/dayrun.log.
    pub fn attach(&self, dir: &Path) {
        let path = dir.join("dayrun.log");
        match File::create(&path) {
            Ok(mut file) => {
                let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = std::mem::take(&mut sink.kept);
                let _ = file.write_all(&kept);
                sink.file = Some(file);
            }
            Err(e) => tracing::warn!("no log file: {}: {e}", path.display()),
        }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut sink = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Sink { file, kept } = &mut *sink;
        match file {
            Some(file) => file.write_all(bytes)?,
            None if kept.len() < MOST_KEPT => kept.extend_from_slice(bytes),
            None => {}
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
