//! `dayrun quickstart`: from nothing to a working adapter in two minutes.

use std::path::PathBuf;
use std::process::ExitCode;

use super::Terminal;
use super::log::Log;
use super::output::Failure;

/// Train an adapter for a small model now, see its effect, keep it.
#[derive(clap::Args)]
pub struct Args {
    /// The run directory.
    #[arg(long, value_name = "DIR", default_value = "runs/quickstart")]
    out: PathBuf,
    /// A copy of the demo model that you have.
    #[arg(long, value_name = "PATH")]
    model: Option<PathBuf>,
}

pub(super) fn run(args: &Args, _: &Terminal, _: &Log) -> Result<ExitCode, Failure> {
    let _ = (&args.out, &args.model);
    Err(Failure::new("quickstart is not there yet", "dayrun train RUN.toml"))
}
