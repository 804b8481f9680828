//! The `dayrun` binary: argument parsing and the exit code, nothing else.

fn main() -> std::process::ExitCode {
    dayrun::cli::main()
}
