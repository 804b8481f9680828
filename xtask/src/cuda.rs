//! The CUDA compiler without CUDA: NVRTC, its headers and ptxas, from pinned wheels.
//!
//! No GPU, no toolkit and no host compiler is needed; Python's pip fetches the wheels once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::nvrtc::Nvrtc;
use crate::wheels::{self, NVCC, NVDISASM, NVRTC, RUNTIME, Wheel, hex, scratch};

/// The virtual architecture compiled for unless the options name one: Ampere's first.
pub const ARCH: &str = "compute_80";

/// A CUDA C++ source text with what it needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source<'a> {
    /// Its name in messages and in the PTX's `.file` lines: a path relative to the repository.
    pub name: &'a str,
    /// CUDA C++.
    pub text: &'a str,
    /// Headers for `#include`, by the name that is included, before those of CUDA.
    pub headers: &'a [(&'a str, &'a str)],
    /// NVRTC's options, such as `-lineinfo` or `--gpu-architecture=compute_90a`.
    pub options: &'a [&'a str],
}

/// NVRTC and the headers.
pub struct Toolchain {
    nvrtc: Nvrtc,
    includes: PathBuf,
}

/// The compiler, fetched if it is not there yet (24 MB).
///
/// # Errors
/// It can't be fetched ([`Error::lacks`] tells whether the machine is why), or can't be loaded.
pub fn toolchain() -> Result<Toolchain, Error> {
    let nvrtc = wheels::unpacked(&NVRTC)?.join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12");
    let includes = wheels::unpacked(&RUNTIME)?.join("nvidia/cuda_runtime/include");
    Ok(Toolchain { nvrtc: Nvrtc::load(&nvrtc)?, includes })
}

/// The path of ptxas, fetched if it is not there yet (41 MB).
///
/// # Errors
/// It can't be fetched.
pub fn ptxas() -> Result<PathBuf, Error> {
    Ok(wheels::unpacked(&NVCC)?.join("nvidia/cuda_nvcc/bin/ptxas"))
}

impl Toolchain {
    /// The PTX of a source.
    ///
    /// The same source and options give the same text on every machine: no path of this machine
    /// is in it.
    ///
    /// # Errors
    /// NVRTC refuses: [`Error::Compile`] has its log.
    pub fn compile(&self, source: &Source) -> Result<String, Error> {
        let ptx = self.nvrtc.compile(source, &self.options(source))?;
        Ok(calls_from_zero(&relative_files(&ptx, &self.prefixes(source.name))))
    }

    /// As [`Toolchain::compile`], with results kept under target/cuda/ptx.
    ///
    /// # Errors
    /// As for `compile`; also a folder that can't be written.
    pub fn compile_cached(&self, source: &Source) -> Result<String, Error> {
        let folder = crate::target().join("cuda/ptx");
        let kept = folder.join(key(source)).with_extension("ptx");
        if let Ok(ptx) = fs::read_to_string(&kept) {
            return Ok(ptx);
        }
        let ptx = self.compile(source)?;
        fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
        let part = scratch(&folder);
        fs::write(&part, &ptx).map_err(Error::io("writing", &part))?;
        fs::rename(&part, &kept).map_err(Error::io("renaming", &part))?;
        Ok(ptx)
    }

    /// The options that every source is compiled with, then its own.
    fn options(&self, source: &Source) -> Vec<String> {
        let own = source.options;
        let has = |names: &[&str]| own.iter().any(|o| names.iter().any(|name| o.starts_with(name)));
        // NVRTC 12.1 declares __dp4a and its kin, but has their bodies in a header only.
        let mut options =
            vec!["-default-device".to_string(), "--pre-include=sm_61_intrinsics.hpp".to_string()];
        if !has(&["--gpu-architecture", "-arch"]) {
            options.push(format!("--gpu-architecture={ARCH}"));
        }
        if !has(&["--std", "-std"]) {
            options.push("--std=c++17".to_string());
        }
        options.extend(own.iter().map(|option| option.to_string()));
        options.push(format!("--include-path={}", self.includes.display()));
        options
    }

    /// Which paths of this machine stand for what in the PTX.
    fn prefixes(&self, name: &str) -> [(String, String); 3] {
        // NVRTC takes a relative name as one in the folder that the process runs in.
        let here = std::env::current_dir().unwrap_or_default().join(name);
        let folder = |path: &Path| format!("{}/", path.display());
        [
            (format!("{}\"", here.display()), format!("{name}\"")),
            (folder(&self.includes), "cuda/".to_string()),
            (folder(crate::root()), String::new()),
        ]
    }
}

/// Everything that decides what the PTX is.
fn key(source: &Source) -> String {
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    for Wheel { sha256, .. } in [NVRTC, RUNTIME] {
        add(sha256);
    }
    add(source.name);
    add(source.text);
    for (name, text) in source.headers {
        add(name);
        add(text);
    }
    // Keeps options apart from headers.
    add("options");
    source.options.iter().for_each(|option| add(option));
    hex(&digest.finalize())
}

/// Shortens the paths in `.file` lines, which `-lineinfo` brings in.
fn relative_files(ptx: &str, prefixes: &[(String, String)]) -> String {
    let mut out = String::with_capacity(ptx.len());
    for line in ptx.split_inclusive('\n') {
        let path = line.trim_start().starts_with(".file").then(|| line.split_once('"')).flatten();
        let shorter = path.and_then(|(before, path)| {
            let (from, to) = prefixes.iter().find(|(from, _)| path.starts_with(from))?;
            Some(format!("{before}\"{to}{}", &path[from.len()..]))
        });
        out.push_str(shorter.as_deref().unwrap_or(line));
    }
    out
}

/// NVRTC numbers calls on from one compilation to the next of a process, and two at once take turns:
/// here from 0 without gaps.
fn calls_from_zero(ptx: &str) -> String {
    let numbers = ptx.split("// callseq ").skip(1).filter_map(|rest| split_number(rest).0);
    let numbers: BTreeSet<u64> = numbers.collect();
    let rank: BTreeMap<u64, usize> = numbers.into_iter().zip(0..).collect();
    let mut out = String::with_capacity(ptx.len());
    let mut rest = ptx;
    loop {
        let marks = ["// callseq ", "prototype_"].into_iter();
        let found = marks.filter_map(|mark| Some(rest.find(mark)? + mark.len())).min();
        let Some(at) = found else { break };
        out.push_str(&rest[..at]);
        let (number, after) = split_number(&rest[at..]);
        match number.and_then(|number| rank.get(&number)) {
            Some(rank) => {
                out.push_str(&rank.to_string());
                rest = after;
            }
            None => rest = &rest[at..],
        }
    }
    out + rest
}

/// The number that a text begins with, and what follows.
fn split_number(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match text[..end].parse() {
        Ok(number) => (Some(number), &text[end..]),
        Err(_) => (None, text),
    }
}

/// Assembles PTX for a real GPU and returns what `ptxas -v` says: registers, spills, shared memory.
///
/// # Errors
/// ptxas can't be fetched or started, or refuses: [`Error::Assemble`] has its words.
pub fn assemble(path: &Path, arch: &str) -> Result<String, Error> {
    assemble_to(path, arch, Path::new("/dev/null"))
}

/// As [`assemble`], and leaves the machine code in the file `to`.
///
/// # Errors
/// As for `assemble`.
pub fn assemble_to(path: &Path, arch: &str, to: &Path) -> Result<String, Error> {
    let program = ptxas()?;
    let output = Command::new(&program)
        .args(["-v", &format!("--gpu-name={arch}"), "--output-file"])
        .args([to, path])
        .output()
        .map_err(Error::io("starting", &program))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = text(&output.stdout) + &text(&output.stderr);
    if !output.status.success() {
        return Err(Error::Assemble { path: path.into(), status: output.status, log });
    }
    Ok(log)
}

/// The instructions of machine code that ptxas left, as nvdisasm writes them.
///
/// # Errors
/// nvdisasm can't be fetched or started, or refuses: [`Error::Disassemble`] has its words.
pub fn disassemble(path: &Path) -> Result<String, Error> {
    let program = wheels::unpacked(&NVDISASM)?.join("nvidia/cu13/bin/nvdisasm");
    let output = Command::new(&program)
        .arg("--print-code")
        .arg(path)
        .output()
        .map_err(Error::io("starting", &program))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        let log = text(&output.stderr);
        return Err(Error::Disassemble { path: path.into(), status: output.status, log });
    }
    Ok(text(&output.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_numbered_from_zero() {
        let ptx = |a, b| {
            format!(
                "{{ // callseq {b}, 0\n}} // callseq {b}\nprototype_{a} : .callprototype\n\
                     // callseq {a}, 0\ncall (r), f, (), prototype_{a};\n"
            )
        };
        assert_eq!(calls_from_zero(&ptx(7, 8)), ptx(0, 1));
        assert_eq!(calls_from_zero(&ptx(0, 1)), ptx(0, 1));
        assert_eq!(calls_from_zero(&ptx(9, 4)), ptx(1, 0));
        assert_eq!(calls_from_zero("add.s32 prototype_x;"), "add.s32 prototype_x;");
    }

    #[test]
    fn file_lines_lose_the_machine() {
        let prefixes = [("/b/x.cu\"", "x.cu\""), ("/a/cuda/include/", "cuda/"), ("/a/", "")]
            .map(|(from, to)| (from.to_string(), to.to_string()));
        let ptx = "\t.file\t1 \"/a/kernels/x.cu\"\n\t.file\t2 \"/a/cuda/include/f.hpp\"\n\
                   \t.file\t3 \"/b/x.cu\"\n// \"/a/kept\"\n";
        assert_eq!(
            relative_files(ptx, &prefixes),
            "\t.file\t1 \"kernels/x.cu\"\n\t.file\t2 \"cuda/f.hpp\"\n\
             \t.file\t3 \"x.cu\"\n// \"/a/kept\"\n"
        );
    }
}
