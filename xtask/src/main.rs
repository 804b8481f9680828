//! `cargo xtask`: what a developer of this repository runs.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::error::Error;
use xtask::{cuda, kernels, planted, ptx, wheels};

/// What a developer of this repository runs.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compile .cu files to PTX with NVRTC 12.1; it is fetched once, no CUDA and no GPU is needed
    Ptx {
        /// Sources [default: all whose PTX the repository keeps]
        files: Vec<PathBuf>,
        /// Fail, and name the files, if the PTX that is there is not what the sources compile to
        #[arg(long)]
        check: bool,
        /// Virtual architecture, for sources that name none [default: compute_80]
        #[arg(long)]
        arch: Option<String>,
        /// Folder for the PTX [default: beside the source, kernels/*.cu to kernels/ptx]
        #[arg(long)]
        out: Option<PathBuf>,
        /// Keep the source's line numbers
        #[arg(long)]
        lineinfo: bool,
    },
    /// Assemble a PTX file for a real GPU; tells registers, spills and shared memory
    Ptxas {
        /// The PTX file
        file: PathBuf,
        /// Real architecture
        #[arg(long, default_value = "sm_80")]
        arch: String,
    },
    /// Write docs/kernels.md: registers, spills, shared memory, occupancy, instructions per mma
    Kernels {
        /// Fail if the page is stale, or a hot kernel spills
        #[arg(long)]
        check: bool,
    },
    /// Plant mistakes in kernels, see the tests find them, and write docs/planted.md
    Planted {
        /// Only mistakes whose text, kernels or test contain this; the page is left alone
        only: Option<String>,
    },
    /// Fetch the compilers, and tell where they are
    Cuda,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        Command::Ptx { files, check, arch, out, lineinfo } => {
            let request = ptx::Request { files, check, arch, out, lineinfo };
            for path in ptx::run(&request)? {
                println!("{}", path.display());
            }
        }
        Command::Ptxas { file, arch } => println!("{}", cuda::assemble(&file, &arch)?.trim_end()),
        Command::Kernels { check } => println!("{}", kernels::run(check)?.display()),
        Command::Planted { only } => {
            println!("{}", planted::run(only.as_deref())?.display());
        }
        Command::Cuda => {
            for wheel in [wheels::NVRTC, wheels::RUNTIME, wheels::NVCC, wheels::NVDISASM] {
                println!("{}", wheels::unpacked(&wheel)?.display());
            }
        }
    }
    Ok(())
}
