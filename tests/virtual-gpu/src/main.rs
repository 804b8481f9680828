//! `virtual-gpu PROGRAM [ARGUMENTS]`: starts a program whose CUDA driver is the virtual GPU.

use std::process::ExitCode;

use virtual_gpu::Options;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: virtual-gpu PROGRAM [ARGUMENTS]");
        return ExitCode::FAILURE;
    };
    let options = match Options::from_env() {
        Ok(options) => options,
        Err(error) => return refuse(&error),
    };
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
