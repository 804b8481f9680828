//! A program that is neither ours nor Rust: numba's CUDA target compiles Python kernels and
//! launches them on the virtual GPU (kernels.py); numpy judges the results.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use virtual_gpu::Options;
use xtask::wheels::{NVCC, RUNTIME, unpacked};

/// Pinned: numba's generated code and its use of the driver change between versions.
const PACKAGES: [&str; 3] = ["numba==0.61.2", "numpy==2.2.6", "llvmlite==0.44.0"];

/// Why there is nothing to run.
type Lacks = String;

#[test]
fn python_kernels_give_numpys_results() {
    let (python, home) = match python().and_then(|python| Ok((python, cuda_home()?))) {
        Ok(found) => found,
        Err(lacks) => {
            eprintln!("SKIPPED: {lacks}");
            return;
        }
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/numba/kernels.py");
    let options = Options { compute_capability: (8, 6), ..Options::default() };
    let mut command = virtual_gpu::command(&python, &options).unwrap_or_else(|e| panic!("{e}"));
    // numba looks for CUDA's compiler and runtime in CUDA_HOME, but opens them by name.
    let mut path = command
        .get_envs()
        .find(|(name, _)| *name == "LD_LIBRARY_PATH")
        .and_then(|(_, value)| value)
        .expect("the virtual GPU's own folder")
        .to_os_string();
    for folder in ["lib64", "nvvm/lib64"] {
        path.push(":");
        path.push(home.join(folder));
    }
    let output = command
        .arg(&script)
        .env("LD_LIBRARY_PATH", path)
        .env("CUDA_HOME", &home)
        // Whatever a person has set for their own numba.
        .env_remove("NUMBA_ENABLE_CUDASIM")
        .env_remove("NUMBA_CUDA_DRIVER")
        .output()
        .expect("Python in its own environment");
    let said = said(&output);
    println!("{said}");
    assert!(output.status.success(), "kernels.py ended with {}:\n{said}", output.status);
    for expected in [
        "numba runs on virtual GPU (sm_86)",
        "numba saxpy float32: equal to numpy's",
        "numba saxpy float64: equal to numpy's",
        "numba block_sums: equal to numpy's",
        "numba warp_sums: equal to numpy's",
        "numba matmul: equal to numpy's",
        "numba histogram: equal to numpy's",
        "numba out_of_bounds:",
        "write of 8 bytes at",
        "0 bytes past the end of the 8000 bytes",
    ] {
        assert!(said.contains(expected), "no `{expected}` in\n{said}");
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Python in an environment of its own with numba in it, made on the first run.
fn python() -> Result<PathBuf, Lacks> {
    let target = xtask::target();
    let made = target.join(format!("numba-{}", &PACKAGES[0]["numba==".len()..]));
    let python = made.join("bin/python");
    fs::create_dir_all(&target).unwrap();
    let lock = File::create(target.join("numba.lock")).unwrap();
    lock.lock().unwrap();
    // The last thing to be written: without it the environment is a broken one.
    let complete = made.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    let _ = fs::remove_dir_all(&made);
    run(Command::new("python3").args(["-m", "venv"]).arg(&made))?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-input", "--only-binary=:all:"];
    let quiet = "--disable-pip-version-check";
    run(Command::new(&python).args(pip).arg(quiet).args(PACKAGES))?;
    File::create(complete).unwrap();
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), Lacks> {
    let shown = format!("{command:?}");
    let output = command.output().map_err(|error| format!("{shown}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{shown} ended with {}: {}", output.status, said(&output).trim())),
    }
}

/// A folder laid out as CUDA's, with what numba takes from it: libNVVM, libdevice, libcudart.
fn cuda_home() -> Result<PathBuf, Lacks> {
    let fetched = |wheel| unpacked(wheel).map_err(|error| error.to_string());
    let compiler = fetched(&NVCC)?.join("nvidia/cuda_nvcc/nvvm");
    let runtime = fetched(&RUNTIME)?.join("nvidia/cuda_runtime/lib/libcudart.so.12");
    let home = xtask::target().join("numba-cuda");
    fs::create_dir_all(home.join("lib64")).unwrap();
    for (link, to) in
        [("nvvm", &compiler), ("lib64/libcudart.so", &runtime), ("lib64/libcudart.so.12", &runtime)]
    {
        let link = home.join(link);
        if !link.exists() {
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(to, &link).unwrap();
        }
    }
    Ok(home)
}
