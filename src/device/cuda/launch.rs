//! Loading PTX and launching kernels.
//!
//! A launch is checked by the driver for its grid only, never for its arguments. So an op has one typed
//! function per kernel, in its cuda.rs, which is the only caller of [`Launch::run`].

use std::ffi::{CString, c_void};

use bytemuck::Pod;
use cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use cudarc::driver::{result, sys};

use super::buffer::{View, ViewMut};
use super::device::Cuda;
use super::error::{CudaError, describe};

/// A compiled .cu file.
#[derive(Debug)]
pub struct Source {
    /// The op's name, as in kernels/NAME.cu.
    pub name: &'static str,
    pub ptx: &'static str,
}

/// 8-byte words for the arguments of one launch.
const WORDS: usize = 96;
/// Most arguments of a launch.
const ARGUMENTS: usize = 40;
/// Shared memory that a block may have without asking.
const SHARED_DEFAULT: u32 = 48 << 10;

/// A launch in the making: a kernel, its grid and its arguments in order. Allocates nothing.
pub struct Launch<'a> {
    cuda: &'a Cuda,
    source: &'static Source,
    kernel: &'static str,
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    words: [u64; WORDS],
    used: usize,
    /// First word of each argument.
    starts: [usize; ARGUMENTS],
    count: usize,
}

impl<'a> Launch<'a> {
    /// `grid` blocks of `block` threads each.
    pub fn new(
        cuda: &'a Cuda,
        source: &'static Source,
        kernel: &'static str,
        grid: [u32; 3],
        block: u32,
    ) -> Self {
        let (words, starts) = ([0; WORDS], [0; ARGUMENTS]);
        Self {
            cuda,
            source,
            kernel,
            grid,
            block,
            shared_bytes: 0,
            words,
            used: 0,
            starts,
            count: 0,
        }
    }

    /// Dynamic shared memory of a block, bytes.
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared_bytes = bytes;
        self
    }

    /// An argument that the kernel reads through.
    pub fn read<T: Pod>(self, view: View<'_, T>) -> Self {
        self.value(view.pointer)
    }

    /// An argument that the kernel writes through.
    pub fn write<T: Pod>(self, view: &mut ViewMut<'_, T>) -> Self {
        self.value(view.pointer)
    }

    /// An argument by value: a number, or a `#[repr(C)]` struct of at most 8-byte alignment.
    ///
    /// Panics when there are too many: a mistake in an op.
    pub fn value<T: Pod>(mut self, value: T) -> Self {
        let bytes = bytemuck::bytes_of(&value);
        let words = bytes.len().div_ceil(8);
        assert!(
            self.count < ARGUMENTS && self.used + words <= WORDS && align_of::<T>() <= 8,
            "{}: too many arguments",
            self.kernel
        );
        self.starts[self.count] = self.used;
        bytemuck::cast_slice_mut(&mut self.words)[self.used * 8..][..bytes.len()]
            .copy_from_slice(bytes);
        self.count += 1;
        self.used += words;
        self
    }

    /// Asks the device to run it. A grid without blocks does nothing.
    ///
    /// # Safety
    /// The arguments are those the kernel declares, in order and by type, and within the views' lengths
    /// it touches only what its .cu file says.
    ///
    /// # Errors
    /// [`CudaError::Launch`] with the kernel and its grid. A fault while it runs shows at the next wait.
    pub unsafe fn run(mut self) -> Result<(), CudaError> {
        if self.grid.contains(&0) {
            return Ok(());
        }
        self.cuda.bind()?;
        let function = self.cuda.kernel(self.source, self.kernel)?;
        let mut pointers = [std::ptr::null_mut::<c_void>(); ARGUMENTS];
        for (pointer, &start) in pointers.iter_mut().zip(&self.starts[..self.count]) {
            *pointer = (&raw mut self.words[start]).cast();
        }
        let [x, y, z] = self.grid;
        if self.shared_bytes > SHARED_DEFAULT {
            let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function belongs to a module that lives as long as the device.
            let asked = unsafe {
                result::function::set_function_attribute(function, most, self.shared_bytes as i32)
            };
            asked.map_err(|error| self.failed(error))?;
        }
        let (block, shared) = ((self.block, 1, 1), self.shared_bytes);
        // SAFETY: the caller's: the arguments are the kernel's.
        let launched = unsafe {
            let arguments = &mut pointers[..self.count];
            result::launch_kernel(function, (x, y, z), block, shared, self.cuda.stream, arguments)
        };
        launched.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: cudarc::driver::DriverError) -> CudaError {
        let Self { kernel, grid, block, shared_bytes, .. } = *self;
        let (code, text) = describe(error);
        CudaError::Launch { kernel, grid, block, shared_bytes, code, text }
    }
}

impl Cuda {
    /// Loads a source's PTX, which the driver compiles for the device, and all its kernels, which newer drivers
    /// load only when they are asked for: before memory is planned, and before anything is timed.
    pub fn load(&self, source: &'static Source) -> Result<(), CudaError> {
        self.bind()?;
        for entry in source.ptx.split(".entry ").skip(1) {
            let name = entry.split(|c: char| !c.is_alphanumeric() && c != '_').next();
            self.kernel(source, name.unwrap_or_default())?;
        }
        Ok(())
    }

    fn module(&self, source: &'static Source) -> Result<sys::CUmodule, CudaError> {
        let loading = CudaError::driver("loading the kernels' PTX");
        let mut modules = self.modules.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(&module) = modules.get(source.name) {
            return Ok(module);
        }
        let text = CString::new(source.ptx).expect("PTX has no zero bytes");
        // SAFETY: the image is PTX text that ends with a zero.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.map_err(loading)?;
        modules.insert(source.name, module);
        Ok(module)
    }

    fn kernel(
        &self,
        source: &'static Source,
        kernel: &'static str,
    ) -> Result<sys::CUfunction, CudaError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(&function) = kernels.get(&(source.name, kernel)) {
            return Ok(function);
        }
        let module = self.module(source)?;
        let name = CString::new(kernel).expect("a kernel's name has no zero bytes");
        // SAFETY: the module was loaded by this context and lives as long as `self`.
        let function = unsafe { result::module::get_function(module, name) }
            .map_err(CudaError::driver("looking up a kernel"))?;
        kernels.insert((source.name, kernel), function);
        Ok(function)
    }
}
