//! The command line: one file per subcommand. The only part of dayrun that prints.

mod base_args;
mod bench;
mod device_args;
mod eval;
mod generate;
mod init;
mod inspect;
mod interrupt;
mod log;
mod output;
mod quickstart;
mod terminal;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use output::Failure;
pub use terminal::Terminal;

/// Exit code of a run stopped by Ctrl-C: 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// A QLoRA fine-tuning engine: a frozen base model in 4-bit NF4, low-rank adapters on top.
#[derive(Parser)]
#[command(
    name = "dayrun",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  dayrun quickstart                        train a small model now, in about two minutes
  dayrun init run.toml                     write a commented run file to start from
  dayrun inspect run.toml                  look at its model and its data first
  dayrun train run.toml                    train; the adapter is in runs/run/adapter
  dayrun eval --run runs/run               perplexity and exact match of what was trained
  dayrun generate --run runs/run \"Hello\"   ask it something
  dayrun bench train --model models/smol   how fast this machine trains"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Log more to the terminal: -v progress in words, -vv every update. The log file of a run
    /// has it anyway.
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    Quickstart(quickstart::Args),
    Init(init::Args),
    Inspect(inspect::Args),
    Train(train::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    Bench(bench::Args),
}

/// Parses the arguments, runs the command, prints an error with its advice.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new();
    let log = log::Log::start(cli.verbose, &terminal);
    let result = match cli.command {
        Command::Quickstart(args) => quickstart::run(&args, &terminal, &log),
        Command::Init(args) => init::run(&args),
        Command::Inspect(args) => inspect::run(&args, &terminal),
        Command::Train(args) => train::run(&args, &terminal, &log),
        Command::Eval(args) => eval::run(&args, &terminal),
        Command::Generate(args) => generate::run(&args, &terminal),
        Command::Bench(args) => bench::run(&args, &terminal),
    };
    terminal.clear();
    match result {
        Ok(code) => code,
        Err(failure) => {
            failure.print();
            ExitCode::FAILURE
        }
    }
}
