//! A loaded module: its kernels as programs, its global variables in device memory.

use std::collections::HashMap;
use std::sync::Arc;

use crate::machine::program::Program;
use crate::memory::{Memory, MemoryError};
use crate::ptx::ParseError;

/// PTX text, made ready to launch.
#[derive(Debug)]
pub struct Module {
    pub(crate) kernels: HashMap<String, KernelCode>,
    /// Address and bytes.
    pub(crate) globals: HashMap<String, (u64, u64)>,
    pub(crate) memory: Arc<Memory>,
}

/// A kernel of a module.
#[derive(Debug, Clone)]
pub struct Kernel {
    module: Arc<Module>,
    name: String,
}

/// What is known of a kernel before it is launched.
#[derive(Debug)]
pub struct KernelCode {
    pub program: Program,
    pub params: Vec<ParamLayout>,
    /// `.maxntid` and `.reqntid`.
    pub max_threads: Option<[u32; 3]>,
    pub required_threads: Option<[u32; 3]>,
}

/// Where a parameter lies in the kernel's parameters, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamLayout {
    pub offset: u32,
    pub size: u32,
    pub align: u32,
}

/// Why a PTX text cannot be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Parse(#[from] ParseError),
    #[error("loading PTX, line {line}: {why}\n  {text}")]
    Refused { line: u32, text: String, why: String },
    #[error("loading PTX, line {line}: a place for {name} ({bytes} bytes): {why}")]
    Memory { line: u32, name: String, bytes: u64, why: MemoryError },
}

impl Module {
    pub fn kernel(self: &Arc<Self>, name: &str) -> Option<Kernel> {
        self.kernels
            .contains_key(name)
            .then(|| Kernel { module: self.clone(), name: name.to_owned() })
    }

    /// Names of the kernels, sorted.
    pub fn kernel_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Address and bytes of a global or constant variable.
    pub fn global(&self, name: &str) -> Option<(u64, u64)> {
        self.globals.get(name).copied()
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        for (address, _) in self.globals.values() {
            // It was allocated by us, and nothing else frees it.
            let _ = self.memory.free(*address);
        }
    }
}

impl Kernel {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    pub fn code(&self) -> &KernelCode {
        &self.module.kernels[&self.name]
    }

    pub fn params(&self) -> &[ParamLayout] {
        &self.code().params
    }

    pub fn static_shared_bytes(&self) -> u32 {
        self.code().program.static_shared_bytes
    }

    /// Bytes of a thread's local memory in the kernel's own frame.
    pub fn local_bytes(&self) -> u32 {
        self.code().program.functions[0].local_bytes
    }

    /// Threads of a block, at most.
    pub fn max_threads(&self) -> u32 {
        let product = |sizes: [u32; 3]| sizes.into_iter().fold(1, u32::saturating_mul);
        self.code().max_threads.map_or(1024, |sizes| product(sizes).min(1024))
    }

    /// 32-bit registers that the kernel's frame has here; a real compiler would need fewer.
    pub fn registers(&self) -> u32 {
        self.code().program.functions[0].slots
    }
}
