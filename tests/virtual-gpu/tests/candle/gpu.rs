//! candle's tensors on the device, and its kernels launched as its own CUDA backend launches them.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{CpuStorage, DType, Device, Layout, Storage, Tensor};
use cudarc::driver::{
    CudaContext, CudaModule, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use half::{bf16, f16};

use crate::compare::{self, Bound};

/// The device with one of candle's sources loaded, and the names of the kernels checked so far.
pub struct Gpu {
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    checked: BTreeSet<String>,
}

/// Bytes on the device.
pub type Bytes = CudaSlice<u8>;

/// A tensor's whole storage on the device, and how the tensor lies in it.
pub struct Input {
    bytes: Bytes,
    start: u64,
    pub layout: Layout,
}

/// Memory that a kernel fills, with the dtype and shape that it is then read as.
pub struct Output {
    bytes: Bytes,
    dtype: DType,
    shape: Vec<usize>,
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An address, or a size.
    U64(u64),
    U32(u32),
    I32(i32),
    I64(i64),
    U8(u8),
    F64(f64),
    F32(f32),
    F16(f16),
    BF16(bf16),
}

impl From<usize> for Arg {
    fn from(value: usize) -> Arg {
        Arg::U64(value as u64)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Arg {
        Arg::U32(value)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Arg {
        Arg::I32(value)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::F32(value)
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Arg {
        Arg::F64(value)
    }
}

/// A number in a tensor's own type.
pub fn scalar(dtype: DType, value: f64) -> Arg {
    match dtype {
        DType::U8 => Arg::U8(value as u8),
        DType::U32 => Arg::U32(value as u32),
        DType::I32 => Arg::I32(value as i32),
        DType::I64 => Arg::I64(value as i64),
        DType::F16 => Arg::F16(f16::from_f64(value)),
        DType::BF16 => Arg::BF16(bf16::from_f64(value)),
        DType::F32 => Arg::F32(value as f32),
        DType::F64 => Arg::F64(value),
        other => panic!("no scalar of {other:?}"),
    }
}

/// The grid that candle uses for so many elements: blocks of 1024 threads.
pub fn for_elements(elements: usize) -> LaunchConfig {
    LaunchConfig::for_num_elems(elements as u32)
}

/// A grid of blocks, both in one dimension.
pub fn blocks(grid: usize, block: usize) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (grid as u32, 1, 1),
        block_dim: (block as u32, 1, 1),
        shared_mem_bytes: 0,
    }
}

impl Gpu {
    pub fn new(ptx: String) -> Gpu {
        let context = CudaContext::new(0).expect("a device");
        let name = context.name().expect("its name");
        assert!(
            name.starts_with("virtual GPU (sm_"),
            "these tests are for the virtual GPU: {name}"
        );
        let module = context.load_module(Ptx::from_src(ptx)).expect("the module");
        Gpu { stream: context.default_stream(), module, checked: BTreeSet::new() }
    }

    /// The kernels of the module that were launched, with results that were as they should be.
    pub fn checked(&self) -> &BTreeSet<String> {
        &self.checked
    }

    pub fn upload(&self, tensor: &Tensor) -> Input {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { panic!("a tensor of the CPU") };
        let bytes = self.upload_bytes(&storage_bytes(storage));
        let start = (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64;
        Input { bytes, start, layout: layout.clone() }
    }

    pub fn upload_bytes(&self, bytes: &[u8]) -> Bytes {
        self.stream.clone_htod(bytes).expect("a copy to the device")
    }

    /// Dimensions and strides as the kernels want them.
    pub fn upload_sizes(&self, sizes: &[usize]) -> Bytes {
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| (*size as u64).to_le_bytes()).collect();
        self.upload_bytes(&bytes)
    }

    pub fn address(&self, bytes: &Bytes) -> Arg {
        Arg::U64(bytes.device_ptr(&self.stream).0)
    }

    pub fn input(&self, input: &Input) -> Arg {
        Arg::U64(input.bytes.device_ptr(&self.stream).0 + input.start)
    }

    /// Memory for a result, not initialised: what a kernel leaves out is found.
    pub fn output(&self, dtype: DType, shape: &[usize]) -> Output {
        let bytes = shape.iter().product::<usize>() * dtype.size_in_bytes();
        // SAFETY: u8 has no invalid value; that nothing reads it before it is written is watched.
        let bytes = unsafe { self.stream.alloc::<u8>(bytes) }.expect("device memory");
        Output { bytes, dtype, shape: shape.to_vec() }
    }

    /// Memory that a kernel adds to or writes in part: a copy of the tensor.
    pub fn in_place(&self, tensor: &Tensor) -> Output {
        let contiguous = tensor.force_contiguous().unwrap();
        let input = self.upload(&contiguous);
        Output { bytes: input.bytes, dtype: tensor.dtype(), shape: tensor.dims().to_vec() }
    }

    pub fn result(&self, output: &Output) -> Arg {
        self.address(&output.bytes)
    }

    pub fn launch(&self, kernel: &str, shape: LaunchConfig, args: &[Arg]) {
        let function = self.module.load_function(kernel).unwrap_or_else(|error| {
            panic!("{kernel}: no such kernel: {error}");
        });
        let mut builder = self.stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::U64(value) => builder.arg(value),
                Arg::U32(value) => builder.arg(value),
                Arg::I32(value) => builder.arg(value),
                Arg::I64(value) => builder.arg(value),
                Arg::U8(value) => builder.arg(value),
                Arg::F64(value) => builder.arg(value),
                Arg::F32(value) => builder.arg(value),
                Arg::F16(value) => builder.arg(value),
                Arg::BF16(value) => builder.arg(value),
            };
        }
        // SAFETY: the arguments are those of the kernel's declaration, and the addresses are of
        // buffers that live here; what goes wrong is found by the device that this is a test of.
        let launched = unsafe { builder.launch(shape) }.map(|_| ());
        launched
            .and_then(|()| self.stream.synchronize())
            .unwrap_or_else(|error| panic!("{kernel} {shape:?}: {error}"));
    }

    pub fn download(&self, output: &Output) -> Tensor {
        let bytes = self.stream.clone_dtoh(&output.bytes).expect("a copy from the device");
        Tensor::from_raw_buffer(&bytes, output.dtype, &output.shape, &Device::Cpu).unwrap()
    }

    /// As `check`, of one row of the output.
    pub fn check_row(
        &mut self,
        kernel: &str,
        output: &Output,
        row: usize,
        expected: &Tensor,
        bound: Bound,
    ) {
        let found = self.download(output).narrow(0, row, 1).unwrap();
        compare::check(kernel, &found, expected, bound);
        self.checked.insert(kernel.to_string());
    }

    /// Compares what a kernel left with what is expected, and counts the kernel as checked.
    pub fn check(&mut self, kernel: &str, output: &Output, expected: &Tensor, bound: Bound) {
        compare::check(kernel, &self.download(output), expected, bound);
        self.checked.insert(kernel.to_string());
    }
}

/// A storage's bytes, as they lie in memory.
fn storage_bytes(storage: &CpuStorage) -> Vec<u8> {
    match storage {
        CpuStorage::U8(data) => data.clone(),
        CpuStorage::U32(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::I16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::I32(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::I64(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::F16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::BF16(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::F32(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        CpuStorage::F64(data) => data.iter().flat_map(|x| x.to_le_bytes()).collect(),
        _ => panic!("a dtype that these tests do not use"),
    }
}
