//! Kernels to PTX: `cargo xtask ptx`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cuda::{self, Source, Toolchain, toolchain};
use crate::error::Error;

/// What to compile, and how.
#[derive(Debug, Default)]
pub struct Request {
    /// The sources; none means all that the repository keeps PTX of.
    pub files: Vec<PathBuf>,
    /// Compare with the PTX that is there, write nothing.
    pub check: bool,
    /// The virtual architecture, for sources that name none.
    pub arch: Option<String>,
    /// Where the PTX goes; `None` is beside the source, kernels/*.cu to kernels/ptx.
    pub out: Option<PathBuf>,
    /// Keep line numbers of the source in the PTX.
    pub lineinfo: bool,
}

/// Compiles, and returns the PTX files that were written (or compared).
///
/// # Errors
/// A source that does not compile, a file that can't be read or written; with `check`
/// [`Error::Stale`], which names every file that is missing or other than its source says.
pub fn run(request: &Request) -> Result<Vec<PathBuf>, Error> {
    let files = match request.files.is_empty() {
        true => all()?,
        false => request.files.clone(),
    };
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let toolchain = toolchain()?;
    let (mut done, mut stale) = (Vec::new(), Vec::new());
    for file in &files {
        let ptx = compile(&toolchain, file, request)?;
        let to = destination(file, request);
        if !request.check {
            let folder = to.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(folder).map_err(Error::io("making", folder))?;
            fs::write(&to, ptx).map_err(Error::io("writing", &to))?;
        } else if fs::read_to_string(&to).ok().as_deref() != Some(&ptx) {
            stale.push(shown(&to));
        }
        done.push(to);
    }
    if stale.is_empty() { Ok(done) } else { Err(Error::Stale { stale }) }
}

/// Every source whose PTX is checked in and is NVRTC's.
///
/// Beside some sources lies PTX that is named after its compiler, `x.nvcc-13.5.ptx` for `x.cu`: it
/// shows what that compiler writes, and is kept as it came.
///
/// # Errors
/// A folder that can't be listed.
pub fn all() -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for folder in ["kernels", "tests/virtual-gpu/examples", "tests/virtual-gpu/tests"] {
        walk(&crate::root().join(folder), &mut found)?;
    }
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    found.retain(|path| {
        let named = format!("{}.", path.with_extension("").display());
        let kept = |name: &String| {
            name.strip_prefix(&named)
                .is_some_and(|rest| rest.ends_with(".ptx") && rest.contains('-'))
        };
        path.extension().is_some_and(|extension| extension == "cu") && !names.iter().any(kept)
    });
    found.sort();
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io("listing", folder))? {
        let path = entry.map_err(Error::io("listing", folder))?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

fn destination(file: &Path, request: &Request) -> PathBuf {
    let beside = file.with_extension("ptx");
    let (Some(folder), Some(name)) = (beside.parent(), beside.file_name()) else { return beside };
    match &request.out {
        Some(out) => out.join(name),
        None if folder.ends_with("kernels") => folder.join("ptx").join(name),
        None => beside,
    }
}

/// A path as the repository knows it, whatever folder the command was given it in.
fn shown(file: &Path) -> String {
    let absolute = fs::canonicalize(file).unwrap_or_else(|_| file.into());
    absolute.strip_prefix(crate::root()).unwrap_or(file).display().to_string()
}

fn compile(toolchain: &Toolchain, file: &Path, request: &Request) -> Result<String, Error> {
    let text = fs::read_to_string(file).map_err(Error::io("reading", file))?;
    let mut options = flags(&text);
    let names_arch = |option: &&str| option.contains("-arch") || option.contains("-gpu-arch");
    let arch = request.arch.as_ref().map(|arch| format!("--gpu-architecture={arch}"));
    if let Some(arch) = arch.as_deref().filter(|_| !options.iter().any(names_arch)) {
        options.push(arch);
    }
    if request.lineinfo && !options.iter().any(|option| option.ends_with("-lineinfo")) {
        options.push("-lineinfo");
    }
    let name = shown(file);
    // Products and sums of the engine's kernels are rounded apart unless a kernel asks for an fma by name: else each
    // driver's compiler would choose which to fuse, and the same run would give other bits with another driver.
    if name.starts_with("kernels/") {
        options.push("--fmad=false");
    }
    // What is included with quotes lies beside the source.
    let whole = fs::canonicalize(file).map_err(Error::io("finding", file))?;
    let folder = whole.parent().unwrap_or(Path::new("/"));
    let beside = format!("--include-path={}", folder.display());
    options.push(&beside);
    // NVRTC 12.1's mma.h includes headers that only the wheel of ptxas has.
    let matrices = match text.contains("<mma.h>") {
        true => format!("--include-path={}", cuda::ptxas()?.with_file_name("../include").display()),
        false => String::new(),
    };
    options.extend((!matrices.is_empty()).then_some(matrices.as_str()));
    toolchain.compile(&Source { name: &name, text: &text, headers: &[], options: &options })
}

/// The options that a source asks for in its opening comment: `// compile: -lineinfo`.
fn flags(text: &str) -> Vec<&str> {
    text.lines()
        .take_while(|line| line.starts_with("//"))
        .filter_map(|line| line.strip_prefix("// compile:"))
        .flat_map(str::split_whitespace)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_in_the_opening_comment() {
        let text = "// x.cu: what it is\n// compile: -lineinfo --gpu-architecture=compute_90\n\n\
                    // compile: --late\n";
        assert_eq!(flags(text), ["-lineinfo", "--gpu-architecture=compute_90"]);
        assert!(flags("__global__ void k() {}").is_empty());
    }

    #[test]
    fn ptx_lies_beside_its_source_or_in_kernels_ptx() {
        let to = |file: &str, out: Option<&str>| {
            let request = Request { out: out.map(PathBuf::from), ..Request::default() };
            destination(Path::new(file), &request)
        };
        assert_eq!(to("tests/a/x.cu", None), Path::new("tests/a/x.ptx"));
        assert_eq!(to("kernels/x.cu", None), Path::new("kernels/ptx/x.ptx"));
        assert_eq!(to("kernels/x.cu", Some("o")), Path::new("o/x.ptx"));
    }
}
