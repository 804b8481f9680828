//! candle-kernels' sources as they are, compiled with NVRTC.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::cuda::{Source, toolchain};

/// What the sources include and NVRTC does not have: the host's headers, as far as they are used.
const SHIMS: [(&str, &str); 4] = [
    ("stdint.h", include_str!("shim/stdint.h")),
    ("math.h", include_str!("shim/math.h")),
    ("cmath", include_str!("shim/math.h")),
    ("cuda/std/limits", include_str!("shim/limits.h")),
];

/// The PTX of one of the sources, such as `affine.cu`.
///
/// `None` on a machine that cannot have the compiler or the sources, with the reason on stderr.
pub fn ptx(name: &str) -> Option<String> {
    let toolchain = match toolchain() {
        Ok(toolchain) => toolchain,
        Err(error) if error.lacks() => return skipped(&error),
        Err(error) => panic!("{error}"),
    };
    let folder = match folder() {
        Ok(folder) => folder,
        Err(said) => return skipped(&said),
    };
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let own = ["cuda_utils.cuh", "compatibility.cuh", "binary_op_macros.cuh"];
    let own: Vec<(&str, String)> = own.into_iter().map(|name| (name, read(name))).collect();
    let mut headers = SHIMS.to_vec();
    headers.extend(own.iter().map(|(name, text)| (*name, text.as_str())));
    let source = Source { name, text: &read(name), headers: &headers, options: &["-lineinfo"] };
    Some(toolchain.compile_cached(&source).unwrap_or_else(|error| panic!("{error}")))
}

fn skipped<T>(why: &dyn std::fmt::Display) -> Option<T> {
    eprintln!("SKIPPED: {why}");
    None
}

/// The folder with the sources, which cargo fetches if it does not have them.
fn folder() -> Result<PathBuf, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/candle/package/Cargo.toml");
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--locked", "--format-version=1", "--manifest-path"])
        .arg(&package)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo can't fetch candle-kernels: {}", said.trim()));
    }
    // The manifest's path is the one string in the answer that ends so.
    let answer = String::from_utf8_lossy(&output.stdout);
    let manifest = answer
        .split('"')
        .find(|text| text.ends_with("candle-kernels-0.11.1/Cargo.toml"))
        .expect("candle-kernels among the packages");
    Ok(Path::new(manifest).with_file_name("src"))
}
