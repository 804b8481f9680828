//! `dayrun train`: a run file, run.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::device_args::DeviceArgs;
use super::log::{FILE_ONLY, Log};
use super::output::Failure;
use super::{INTERRUPTED, Terminal, interrupt};
use crate::config::{self, RunFile};
use crate::train::{Outcome, RunDir, Watch, run_file};

/// Train an adapter as a run file says.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dayrun train run.toml
  dayrun train run.toml --set train.learning_rate=1e-4 --set lora.r=32 --out runs/r32
  dayrun train run.toml --device cuda:1             on the second GPU
  dayrun train run.toml --memory 39.3GB             as if the GPU had no more than that

Ctrl-C finishes the update in progress, saves the adapter and ends with code 130.
A run directory is never overwritten.")]
pub struct Args {
    /// The run file (`dayrun init` writes one).
    run: PathBuf,
    /// Set a key over the run file: dotted key, TOML value. May be given several times.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run directory; without it train.out, or runs/ and the run file's name.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Go on with a run that was stopped (not there yet).
    #[arg(long)]
    resume: bool,
}

pub(super) fn run(args: &Args, terminal: &Terminal, log: &Log) -> Result<ExitCode, Failure> {
    if args.resume {
        return Err(Failure::new(
            "--resume: continuing a run from its full state is not there yet",
            "to go on from its adapter with a fresh optimizer: --set lora.init_adapter=RUN/adapter",
        ));
    }
    let sets = [args.set.clone(), args.device.sets()].concat();
    let (run, _) = config::load(&args.run, &sets)?;
    let out =
        args.out.clone().or_else(|| run.train.out.clone()).unwrap_or_else(|| {
            Path::new("runs").join(args.run.file_stem().unwrap_or("run".as_ref()))
        });
    let outcome = train(&run, &out, terminal, log)?;
    finish(&outcome, terminal);
    Ok(match outcome.summary.interrupted {
        true => ExitCode::from(INTERRUPTED),
        false => ExitCode::SUCCESS,
    })
}

/// Runs a run file with progress, log file and Ctrl-C; the quickstart does the same.
pub(super) fn train(
    run: &RunFile,
    out: &Path,
    terminal: &Terminal,
    log: &Log,
) -> Result<Outcome, Failure> {
    RunDir::check(out)?;
    let outcome = run_file(
        run,
        out,
        &Watch {
            report: &|progress| terminal.report(progress),
            on_step: &|report, total| terminal.step(report, total),
            on_dir: &|dir| log.attach(dir),
            on_note: &|text| terminal.note(text),
            stop: interrupt::stop_flag(terminal),
        },
    );
    if let Err(error) = &outcome {
        tracing::error!(target: FILE_ONLY, "{error}");
    }
    terminal.clear();
    Ok(outcome?)
}

fn finish(outcome: &Outcome, terminal: &Terminal) {
    let summary = &outcome.summary;
    let dir = outcome.dir.path().display();
    if summary.interrupted {
        terminal.note(&format!("stopped after {} updates", summary.steps));
    }
    terminal.note(&format!(
        "{} updates in {:.1} s, {:.0} tokens/s, final loss {}",
        summary.steps,
        summary.training_seconds,
        summary.tokens_per_second,
        summary.final_loss.map_or("unknown".into(), |loss| format!("{loss:.4}")),
    ));
    let plot = match outcome.dir.path().join("loss.svg").exists() {
        true => format!("   plot: {dir}/loss.svg"),
        false => String::new(),
    };
    terminal.note(&format!("adapter: {dir}/adapter{plot}"));
    if let Some(hint) = outcome.base.hint() {
        terminal.note(&hint);
    }
    terminal.note(&format!("try it:  dayrun generate --run {dir} \"...\""));
}
