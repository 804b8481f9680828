//! docs/kernels.md: what the compiler makes of every kernel: `cargo xtask kernels`.

mod occupancy;
mod page;
mod ptxas;
mod sass;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cuda;
use crate::error::Error;
use crate::wheels::scratch;
use occupancy::ARCHITECTURES;
use ptxas::Resources;
use sass::MainLoop;

/// Kernels that may spill, with the reason: they take no noticeable part of a step.
const NOT_HOT: &[(&str, &str)] = &[];

/// What is known of a kernel.
struct Kernel {
    name: String,
    /// Threads of a block.
    threads: u32,
    /// Bytes of shared memory that the launch gives.
    dynamic: u32,
    /// For each of [`ARCHITECTURES`].
    resources: Vec<Resources>,
    loops: Vec<Option<MainLoop>>,
}

/// Writes the page; with `check` compares it with what is there. Returns its path.
///
/// # Errors
/// A compiler that can't be had; a kernel without `__launch_bounds__`, or with dynamic shared memory that its
/// source does not tell. With `check` also a page that is not this one, and spills in a hot kernel.
pub fn run(check: bool) -> Result<PathBuf, Error> {
    let (path, folder) = (crate::root().join("docs/kernels.md"), crate::root().join("kernels"));
    let mut sources: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(&folder).map_err(Error::io("listing", &folder))? {
        sources.push(entry.map_err(Error::io("listing", &folder))?.path());
    }
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    let names = sources.iter().filter_map(|path| path.file_stem()?.to_str());
    let files: Vec<String> = names.map(str::to_string).collect();
    let mut kernels = BTreeMap::new();
    for (source, file) in sources.iter().zip(&files) {
        let ptx = folder.join("ptx").join(file).with_extension("ptx");
        kernels.insert(file.clone(), of_file(source, &ptx)?);
    }
    let text = page::render(&kernels);
    if !check {
        fs::write(&path, text).map_err(Error::io("writing", &path))?;
        return Ok(path);
    }
    let hot = |kernel: &&Kernel| !NOT_HOT.iter().any(|(name, _)| *name == kernel.name);
    let spills = |kernel: &Kernel| kernel.resources.iter().any(|own| own.spilled > 0);
    let spilling: Vec<String> = kernels
        .values()
        .flatten()
        .filter(hot)
        .filter(|kernel| spills(kernel))
        .map(|kernel| kernel.name.clone())
        .collect();
    if !spilling.is_empty() {
        return Err(Error::Spills { kernels: spilling });
    }
    if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
        return Err(Error::StalePage);
    }
    Ok(path)
}

/// The kernels of one source, in its order.
fn of_file(source: &Path, ptx: &Path) -> Result<Vec<Kernel>, Error> {
    let read = |path: &Path| fs::read_to_string(path).map_err(Error::io("reading", path));
    let (source_text, ptx_text) = (read(source)?, read(ptx)?);
    let shared = ptxas::shared_lines(&source_text);
    let mut kernels = Vec::new();
    for entry in ptxas::entries(&ptx_text) {
        let untold = |what| Error::Untold { kernel: entry.name.clone(), what };
        let threads = entry.threads.ok_or_else(|| untold("no __launch_bounds__"))?;
        let dynamic = match (entry.dynamic, shared.get(&entry.name)) {
            (true, Some(&bytes)) => bytes,
            (true, None) => return Err(untold("dynamic shared memory, but no `// shared:` line")),
            (false, None) => 0,
            (false, Some(_)) => return Err(untold("a `// shared:` line, but none is dynamic")),
        };
        let (resources, loops) = (Vec::new(), Vec::new());
        kernels.push(Kernel { name: entry.name, threads, dynamic, resources, loops });
    }
    for architecture in &ARCHITECTURES {
        let (log, sass) = assembled(ptx, architecture.name)?;
        let (mut resources, mut loops) = (ptxas::resources(&log), sass::main_loops(&sass));
        for kernel in &mut kernels {
            kernel.resources.push(resources.remove(&kernel.name).unwrap_or_default());
            kernel.loops.push(loops.remove(&kernel.name));
        }
    }
    // By place in the source: NVRTC writes them in an order of its own.
    kernels.sort_by_key(|kernel| source_text.find(&format!("{}(", kernel.name)));
    Ok(kernels)
}

/// What ptxas says, and the disassembly.
fn assembled(ptx: &Path, architecture: &str) -> Result<(String, String), Error> {
    let folder = crate::target().join("cuda");
    fs::create_dir_all(&folder).map_err(Error::io("making", &folder))?;
    let cubin = scratch(&folder);
    let both = cuda::assemble_to(ptx, architecture, &cubin)
        .and_then(|log| Ok((log, cuda::disassemble(&cubin)?)));
    let _ = fs::remove_file(&cubin);
    both
}
