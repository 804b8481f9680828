//! A virtual GPU at first hand, for tests that launch kernels and look at memory and findings.

#![allow(dead_code)] // Every test binary uses a part of it.

use std::sync::Arc;

use bytemuck::{NoUninit, Pod, Zeroable};
use virtual_gpu::{Finding, Gpu, LaunchConfig, Module, Options, Outcome};

/// A device with one module loaded.
pub struct Device {
    pub gpu: Gpu,
    pub module: Arc<Module>,
}

/// A kernel's parameter.
#[derive(Clone, Debug)]
pub struct Arg(pub Vec<u8>);

impl From<u32> for Arg {
    fn from(value: u32) -> Arg {
        Arg(value.to_le_bytes().to_vec())
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Arg {
        Arg(value.to_le_bytes().to_vec())
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg(value.to_le_bytes().to_vec())
    }
}

/// Addresses, and 64-bit integers.
impl From<u64> for Arg {
    fn from(value: u64) -> Arg {
        Arg(value.to_le_bytes().to_vec())
    }
}

impl Device {
    /// An sm_80 with the module of this PTX text.
    pub fn new(ptx: &str) -> Device {
        Device::with(ptx, Options::default())
    }

    pub fn with(ptx: &str, options: Options) -> Device {
        let gpu = Gpu::new(options);
        let module = gpu.load(ptx).unwrap_or_else(|error| panic!("{error}"));
        Device { gpu, module }
    }

    /// Device memory that holds these values.
    pub fn buffer<T: NoUninit>(&self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.gpu.memory().alloc(bytes.len() as u64).expect("memory");
        self.gpu.memory().write(address, bytes).expect("in bounds");
        address
    }

    /// Device memory of `count` values that nobody has written.
    pub fn unwritten<T>(&self, count: usize) -> u64 {
        self.gpu.memory().alloc((count * size_of::<T>()) as u64).expect("memory")
    }

    pub fn read<T: Pod + Zeroable>(&self, address: u64, count: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); count];
        self.gpu.memory().read(address, bytemuck::cast_slice_mut(&mut values)).expect("in bounds");
        values
    }

    /// Launches, and gives the outcome whatever was found.
    pub fn try_launch(
        &self,
        kernel: &str,
        grid: impl Into<Dims>,
        block: impl Into<Dims>,
        shared_bytes: u32,
        args: &[Arg],
    ) -> Outcome {
        let kernel = self.module.kernel(kernel).unwrap_or_else(|| panic!("no kernel {kernel}"));
        let (Dims(grid), Dims(block)) = (grid.into(), block.into());
        let mut params = Vec::new();
        assert_eq!(kernel.params().len(), args.len(), "{}: parameters", kernel.name());
        for (layout, Arg(bytes)) in kernel.params().iter().zip(args) {
            assert_eq!(layout.size as usize, bytes.len(), "{}: a parameter's size", kernel.name());
            params.resize(layout.offset as usize, 0);
            params.extend(bytes);
        }
        self.gpu
            .launch(&kernel, &LaunchConfig { grid, block, shared_bytes }, &params)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Launches a kernel that must run to its end with nothing found.
    pub fn launch(
        &self,
        kernel: &str,
        grid: impl Into<Dims>,
        block: impl Into<Dims>,
        shared_bytes: u32,
        args: &[Arg],
    ) -> Outcome {
        let outcome = self.try_launch(kernel, grid, block, shared_bytes, args);
        assert!(outcome.findings.is_empty(), "{kernel}:\n{}", list(&outcome.findings));
        assert!(!outcome.stopped, "{kernel} stopped");
        outcome
    }
}

/// Findings a line each.
pub fn list(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// Sizes of a grid or block; a number alone is x.
pub struct Dims(pub [u32; 3]);

impl From<u32> for Dims {
    fn from(x: u32) -> Dims {
        Dims([x, 1, 1])
    }
}

impl From<[u32; 2]> for Dims {
    fn from([x, y]: [u32; 2]) -> Dims {
        Dims([x, y, 1])
    }
}

impl From<[u32; 3]> for Dims {
    fn from(dims: [u32; 3]) -> Dims {
        Dims(dims)
    }
}

/// A generator of test values (xorshift, Marsaglia 2003).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
