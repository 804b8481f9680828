//! `dayrun init`: a commented run file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output::{Failure, print, program_name};
use crate::config::RunFile;

/// Write a commented run file: every key with its meaning and default.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun init              print it
  dayrun init run.toml     write it to run.toml; an existing file is never overwritten")]
pub struct Args {
    /// Where to write it; without it, standard output.
    file: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let text = RunFile::commented();
    let Some(path) = &args.file else {
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    };
    let write = || std::fs::File::create_new(path)?.write_all(text.as_bytes());
    match write() {
        Ok(()) => {
            eprintln!(
                "{} written; next: set model.path and data.train in it, then",
                path.display()
            );
            eprintln!("  {} train {}", program_name(), path.display());
            Ok(ExitCode::SUCCESS)
        }
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::new(
            format!("{} exists already, and init never overwrites", path.display()),
            "give another name, or print it to look at it: dayrun init",
        )),
        Err(source) => Err(crate::config::ConfigError::Write { path: path.clone(), source }.into()),
    }
}
