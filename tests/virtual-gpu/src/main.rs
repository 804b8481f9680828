//! `virtual-gpu PROGRAM [ARGUMENTS]`: starts a program whose CUDA driver is the virtual GPU.

use std::path::Path;
use std::process::ExitCode;

use virtual_gpu::Options;

const HELP: &str = "\
virtual-gpu PROGRAM [ARGUMENTS]

Starts a program whose CUDA driver is the virtual GPU, which runs its kernels on the CPU and watches them.

  virtual-gpu target/debug/my-program --steps 3
  VIRTUAL_GPU_COMPUTE_CAPABILITY=9.0 VIRTUAL_GPU_MEMORY=512MiB virtual-gpu python3 kernels.py
  VIRTUAL_GPU_SEED=7 virtual-gpu target/debug/my-program      another order of blocks and warps

Settings are environment variables: VIRTUAL_GPU_COMPUTE_CAPABILITY (8.0, 8.6, 8.9, 9.0, 12.0), _MEMORY,
_MULTIPROCESSORS, _WATCH (fail, report, off), _SEED, _THREADS, _REPORT (a file for findings as JSON lines).
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprint!("{HELP}");
        return ExitCode::FAILURE;
    };
    if program == "--help" || program == "-h" {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    // Before a minute goes into building for it.
    if program.to_string_lossy().contains('/') && !Path::new(&program).exists() {
        return refuse(&format!("{}: no such program", program.display()));
    }
    let options = match Options::from_env() {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    for name in Options::misspelt(names) {
        eprintln!("warning: {name} is no setting; virtual-gpu --help lists them");
    }
    if !virtual_gpu::is_built() {
        eprintln!("virtual-gpu: building libcuda.so for this processor, once: a minute or two");
    }
    let mut command = match virtual_gpu::command(&program, &options) {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    match command.args(arguments).status() {
        // A program that a signal ended has no code.
        Ok(status) => ExitCode::from(status.code().map_or(1, |code| code as u8)),
        Err(error) => refuse(&format!("starting {}: {error}", program.display())),
    }
}

fn refuse(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}
