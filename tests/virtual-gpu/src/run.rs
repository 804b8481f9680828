//! Builds libcuda.so and starts programs that find it: a test's own executable, or any other.
//!
//! The library must never hide a real driver. Cargo puts its target folder into the library path of
//! everything that it starts, so the crate's own library has another name there, and the copy named
//! libcuda.so lies in a folder of its own, which only the processes started here search.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use crate::options::Options;

/// Tells a process that it was started by [`run`]: the test's name.
const CHILD: &str = "VIRTUAL_GPU_CHILD";
/// The file that the child makes when it gets to the test's body.
const REACHED: &str = "VIRTUAL_GPU_REACHED";
/// The loader's search path.
const SEARCH: &str = "LD_LIBRARY_PATH";

/// Why the library cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file or program of this machine.
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// Cargo refused.
    #[error("building the virtual GPU: cargo ended with {status}\n{said}")]
    Build { status: ExitStatus, said: String },
}

impl RunError {
    fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> RunError {
        let path = path.into();
        move |source| RunError::Io { doing, path, source }
    }
}

/// Runs the body of a test where CUDA's driver is the virtual GPU.
///
/// `test` is the test's full name, as the test runner prints it. The test's executable is started
/// again for this test alone, with the library's folder first in its search path and `options` in
/// its environment; there the body runs.
///
/// ```no_run
/// # fn launch_my_kernels() {}
/// #[test]
/// fn saxpy() {
///     virtual_gpu::run("saxpy", &virtual_gpu::Options::default(), || launch_my_kernels());
/// }
/// ```
///
/// # Panics
/// When the body does, when the process that runs it ends otherwise than in success, when no test
/// has that name, and when the library can't be built.
pub fn run(test: &str, options: &Options, body: impl FnOnce()) {
    run_with(test, options, &[], body);
}

/// As [`run`], with variables for the child's environment.
///
/// # Panics
/// As [`run`].
pub fn run_with(test: &str, options: &Options, variables: &[(&str, &OsStr)], body: impl FnOnce()) {
    if let Some(child) = std::env::var_os(CHILD) {
        assert_eq!(child.to_str(), Some(test), "started for one test, asked to run another");
        if let Some(reached) = std::env::var_os(REACHED) {
            File::create(reached).expect("the file that tells that the test was found");
        }
        return body();
    }
    let library = library().unwrap_or_else(|error| panic!("{error}"));
    let reached = library.join(format!("reached-{}-{test}", std::process::id()).replace(':', "-"));
    let executable = std::env::current_exe().expect("the test's own executable");
    let output = with_library(&library, &executable, options)
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(CHILD, test)
        .env(REACHED, &reached)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("starting {}: {error}", executable.display()));
    // Not inherited: what is printed here, the test runner shows for a failed test only.
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let found = fs::remove_file(&reached).is_ok();
    assert!(output.status.success(), "{test} on the virtual GPU ended with {}", output.status);
    assert!(found, "`{test}` is not the name of the test that calls virtual_gpu::run");
}

/// A command that finds the virtual GPU as its CUDA driver, with these options.
///
/// # Errors
/// The library can't be built.
pub fn command(program: impl AsRef<OsStr>, options: &Options) -> Result<Command, RunError> {
    Ok(with_library(&library()?, program, options))
}

fn with_library(library: &Path, program: impl AsRef<OsStr>, options: &Options) -> Command {
    let mut path = OsString::from(library);
    if let Some(before) = std::env::var_os(SEARCH).filter(|before| !before.is_empty()) {
        path.push(":");
        path.push(before);
    }
    let mut command = Command::new(program);
    command.env(SEARCH, path).envs(options.to_env());
    command
}

/// The folder with libcuda.so and libcuda.so.1 in it, for the LD_LIBRARY_PATH of a program.
///
/// The library is built first if its sources changed: optimised for this machine's processor, once
/// per process that asks; of several processes one builds and the others wait.
///
/// # Errors
/// Cargo is missing or refuses, or the folder can't be written.
pub fn library() -> Result<PathBuf, RunError> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = BUILT.get() {
        return Ok(folder.clone());
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = own.join("../../target/virtual-gpu");
    let folder = target.join("lib");
    fs::create_dir_all(&folder).map_err(RunError::io("making", &folder))?;
    let folder = fs::canonicalize(&folder).map_err(RunError::io("finding", &folder))?;
    let lock = target.join("lock");
    let lock = File::create(&lock).map_err(RunError::io("making", &lock))?;
    lock.lock().map_err(RunError::io("locking", &target))?;
    build(&own.join("Cargo.toml"), &target)?;
    install(&target.join("release/libvirtual_gpu.so"), &folder)?;
    Ok(BUILT.get_or_init(|| folder).clone())
}

/// Whether the library was ever built here: if not, [`library`] takes a minute or two.
pub fn is_built() -> bool {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/virtual-gpu/lib/libcuda.so").exists()
}

fn build(manifest: &Path, target: &Path) -> Result<(), RunError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(&cargo)
        .args(["build", "--quiet", "--release", "--package", "virtual-gpu", "--lib"])
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .env("RUSTFLAGS", "-C target-cpu=native")
        // It would win over RUSTFLAGS.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .output()
        .map_err(RunError::io("starting", &cargo))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(RunError::Build { status: output.status, said })
}

/// Puts the library into its folder under the driver's two names.
///
/// By rename: a process that has the old library loaded keeps it.
fn install(built: &Path, folder: &Path) -> Result<(), RunError> {
    let library = folder.join("libcuda.so");
    let bytes = fs::read(built).map_err(RunError::io("reading", built))?;
    if fs::read(&library).ok().as_ref() != Some(&bytes) {
        let part = folder.join(format!("part-{}", std::process::id()));
        fs::write(&part, bytes).map_err(RunError::io("writing", &part))?;
        fs::rename(&part, &library).map_err(RunError::io("renaming", &part))?;
    }
    // The name that programs linked with the driver ask for. A link, so that both are one library.
    let linked = folder.join("libcuda.so.1");
    #[cfg(unix)]
    if !linked.exists() {
        std::os::unix::fs::symlink("libcuda.so", &linked)
            .map_err(RunError::io("making", &linked))?;
    }
    Ok(())
}
