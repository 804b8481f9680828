//! What can go wrong on the way from a wheel to PTX.

use std::path::PathBuf;
use std::process::ExitStatus;

/// A failure, with what was being done and to what.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a program of this machine.
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// There is no Python to download with.
    #[error("fetching {what}: there is no python3 here\nhint: install python3 with pip")]
    NoPython { what: String },
    /// pip ended with an error.
    #[error("fetching {what}: pip ended with {status}: {said}\nhint: the network may be closed")]
    Pip { what: String, status: ExitStatus, said: String },
    /// The wheels exist for one kind of machine.
    #[error("{what} exists for x86-64 Linux with glibc only")]
    Machine { what: String },
    /// The wheel is not the one that was pinned.
    #[error("{what} has SHA-256 {found}, pinned is {pinned}")]
    Hash { what: String, found: String, pinned: &'static str },
    /// The wheel cannot be unpacked.
    #[error("unpacking {}: {source}", path.display())]
    Zip { path: PathBuf, source: zip::result::ZipError },
    /// libnvrtc cannot be loaded.
    #[error("loading {}: {source}", path.display())]
    Load { path: PathBuf, source: libloading::Error },
    /// NVRTC cannot take what it was given: a null character in a name, a text or an option.
    #[error("compiling {name}: a null character in its {part}")]
    Null { name: String, part: &'static str },
    /// NVRTC refused; `log` is what it says.
    #[error("compiling {name}: {said}\n{log}")]
    Compile { name: String, said: String, log: String },
    /// ptxas refused; `log` is what it says.
    #[error("assembling {}: ptxas ended with {status}\n{log}", path.display())]
    Assemble { path: PathBuf, status: ExitStatus, log: String },
    /// nvdisasm refused; `log` is what it says.
    #[error("disassembling {}: nvdisasm ended with {status}\n{log}", path.display())]
    Disassemble { path: PathBuf, status: ExitStatus, log: String },
    /// A kernel's source does not say what the page of kernels needs.
    #[error("kernel {kernel}: {what}")]
    Untold { kernel: String, what: &'static str },
    /// cargo has not built the tests; it has said why itself.
    #[error("building the tests: cargo ended with {status}")]
    Build { status: ExitStatus },
    /// A test fails without a mistake, so that it would find any.
    #[error("the test {test} fails without a planted mistake: {said}")]
    Fails { test: &'static str, said: String },
    /// Planted mistakes that no test saw.
    #[error("no test found: {}", missed.join("; "))]
    NotFound { missed: Vec<String> },
    /// Kernels of the main loop have too few registers.
    #[error("these spill: {}\nhint: docs/kernels.md has the numbers", kernels.join(", "))]
    Spills { kernels: Vec<String> },
    /// The page of kernels is not what the kernels compile to.
    #[error("docs/kernels.md is not what kernels/ptx assembles to\nhint: cargo xtask kernels")]
    StalePage,
    /// Checked-in PTX is not what its source compiles to.
    #[error("not what the source compiles to: {}\nhint: cargo xtask ptx", stale.join(", "))]
    Stale { stale: Vec<String> },
}

impl Error {
    /// An error of the file system, for `map_err`.
    pub fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { doing, path, source }
    }

    /// Whether this machine lacks something that the commands need (Python, the network, wheels
    /// for its kind), as opposed to a fault in what was compiled.
    pub fn lacks(&self) -> bool {
        matches!(self, Error::NoPython { .. } | Error::Pip { .. } | Error::Machine { .. })
    }
}
