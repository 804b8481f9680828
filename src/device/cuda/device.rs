//! Opening a GPU, its memory, and moving data to and from it.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytemuck::Pod;
use cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, result, sys};

use super::buffer::{Buf, View, ViewMut};
use super::error::CudaError;

/// The CUDA version whose drivers accept our PTX (8.1).
const NEEDED_CUDA: i32 = 12_010;

/// What a device is, as its driver says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability, such as (8, 0).
    pub capability: (i32, i32),
    pub multiprocessors: usize,
    /// Largest shared memory of a block, bytes, with opting in.
    pub shared_bytes: usize,
    /// CUDA version that the driver speaks: 12040 is 12.4.
    pub driver: i32,
    pub memory_bytes: usize,
    /// Free when the device was opened.
    pub free_bytes: usize,
}

/// One opened GPU and its stream.
pub struct Cuda {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: sys::CUstream,
    info: Info,
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Functions by source and kernel name.
    pub(super) kernels: Mutex<HashMap<(&'static str, &'static str), sys::CUfunction>>,
    /// Loaded modules by source name.
    pub(super) modules: Mutex<HashMap<&'static str, sys::CUmodule>>,
}

// SAFETY: the driver's handles may be used from any thread that has bound the context, which every
// call here does first; the maps are behind mutexes.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// How many GPUs the driver sees.
    ///
    /// Errors: [`CudaError::NoDriver`], [`CudaError::NoDevice`], [`CudaError::DriverTooOld`].
    pub fn count() -> Result<usize, CudaError> {
        // SAFETY: it loads the libraries found under the driver's names; a driver's initialisers have
        // no requirements.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let no_device =
            |error| CudaError::NoDevice { reason: super::error::describe(error).0.into() };
        result::init().map_err(no_device)?;
        let mut found = 0;
        // SAFETY: the pointer is to a local integer.
        unsafe { sys::cuDriverGetVersion(&mut found) }.result().map_err(no_device)?;
        if found < NEEDED_CUDA {
            return Err(CudaError::DriverTooOld { found, needed: NEEDED_CUDA });
        }
        match result::device::get_count().map_err(no_device)? {
            0 => Err(CudaError::NoDevice { reason: "it counts 0 devices".into() }),
            count => Ok(count as usize),
        }
    }

    /// Opens GPU `ordinal`. `memory`: bytes that this run may allocate at most; `None`: what is free.
    ///
    /// Errors: as [`Cuda::count`], [`CudaError::NoSuchDevice`], [`CudaError::GpuTooOld`].
    pub fn open(ordinal: usize, memory: Option<usize>) -> Result<Arc<Self>, CudaError> {
        let count = Self::count()?;
        if ordinal >= count {
            return Err(CudaError::NoSuchDevice { ordinal, count });
        }
        let (name, capability) = Self::describe(ordinal)?;
        if capability.0 < 8 {
            return Err(CudaError::GpuTooOld { ordinal, name, capability });
        }
        let opening = CudaError::driver("opening the GPU");
        let context = CudaContext::new(ordinal).map_err(&opening)?;
        // SAFETY: cudarc's event tracking is off before anything is allocated; ordering is by our one
        // stream, and none of cudarc's own slices are used.
        unsafe { context.disable_event_tracking() };
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(&opening)?;
        let (free_bytes, memory_bytes) = result::mem_get_info().map_err(&opening)?;
        let attribute = |of| context.attribute(of).map_err(&opening);
        let mut driver = 0;
        // SAFETY: the pointer is to a local integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(&opening)?;
        let info = Info {
            ordinal,
            name,
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?
                as usize,
            shared_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )? as usize,
            driver,
            memory_bytes,
            free_bytes,
        };
        Ok(Arc::new(Self {
            context,
            stream,
            info,
            limit: usable(memory.unwrap_or(usize::MAX).min(free_bytes)),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            kernels: Mutex::default(),
            modules: Mutex::default(),
        }))
    }

    fn describe(ordinal: usize) -> Result<(String, (i32, i32)), CudaError> {
        let asking = CudaError::driver("asking the GPU what it is");
        let device = result::device::get(ordinal as i32).map_err(&asking)?;
        let name = result::device::get_name(device).map_err(&asking)?;
        // SAFETY: the device handle is the driver's own.
        let attribute = |of| unsafe { result::device::get_attribute(device, of) }.map_err(&asking);
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok((name, (major, minor)))
    }

    /// What it is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// A name for run records: `cuda:0 NVIDIA A100-SXM4-40GB (sm_80)`.
    pub fn name(&self) -> String {
        let Info { ordinal, name, capability: (major, minor), .. } = &self.info;
        format!("cuda:{ordinal} {name} (sm_{major}{minor})")
    }

    /// Bytes that this run may allocate in all.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes allocated now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The most bytes allocated at once so far.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    pub(super) fn returned(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes the context this thread's own, as every call of the driver needs.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(CudaError::driver("binding the GPU to a thread"))
    }

    /// Allocates `len` elements that hold anything: write before you read.
    ///
    /// Errors: [`CudaError::OutOfMemory`] beyond [`Cuda::limit`] or what the driver has.
    pub fn alloc<T: Pod>(self: &Arc<Self>, len: usize) -> Result<Buf<T>, CudaError> {
        self.bind()?;
        let used = self.used();
        let wanted = len.saturating_mul(size_of::<T>());
        let full = |limit| CudaError::OutOfMemory { wanted, used, limit };
        if used.checked_add(wanted).is_none_or(|sum| sum > self.limit) {
            return Err(full(self.limit));
        }
        let pointer = match wanted {
            0 => 0,
            // SAFETY: memory that holds anything is fine: `Pod` has no invalid bits, and kernels' outputs
            // are written before they are read.
            _ => unsafe { result::malloc_sync(wanted) }.map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => full(used),
                _ => CudaError::driver("allocating GPU memory")(error),
            })?,
        };
        let now = self.used.fetch_add(wanted, Ordering::Relaxed) + wanted;
        self.peak.fetch_max(now, Ordering::Relaxed);
        Ok(Buf { cuda: self.clone(), pointer, len, of: PhantomData })
    }

    /// Allocates and fills.
    pub fn upload<T: Pod>(self: &Arc<Self>, data: &[T]) -> Result<Buf<T>, CudaError> {
        let mut buf = self.alloc(data.len())?;
        self.write(&mut buf.view_mut(), data)?;
        Ok(buf)
    }

    /// Copies to the device; done when it returns. Panics when the lengths differ.
    pub fn write<T: Pod>(&self, to: &mut ViewMut<'_, T>, data: &[T]) -> Result<(), CudaError> {
        assert_eq!(to.len, data.len(), "elements to upload");
        if data.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the view lies inside an allocation; the host memory is waited for.
        unsafe { result::memcpy_htod_async(to.pointer, data, self.stream) }
            .map_err(CudaError::driver("copying to the GPU"))?;
        self.synchronize()
    }

    /// Copies to the host; done when it returns. Panics when the lengths differ.
    pub fn read<T: Pod>(&self, from: View<'_, T>, data: &mut [T]) -> Result<(), CudaError> {
        assert_eq!(from.len, data.len(), "elements to download");
        if data.is_empty() {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the view lies inside an allocation; the host memory is waited for.
        unsafe { result::memcpy_dtoh_async(data, from.pointer, self.stream) }
            .map_err(CudaError::driver("copying from the GPU"))?;
        self.synchronize()
    }

    /// All elements of a view, on the host.
    pub fn download<T: Pod>(&self, from: View<'_, T>) -> Result<Vec<T>, CudaError> {
        let mut data = vec![T::zeroed(); from.len];
        self.read(from, &mut data)?;
        Ok(data)
    }

    /// Copies on the device. Panics when the lengths differ.
    pub fn copy<T: Pod>(
        &self,
        to: &mut ViewMut<'_, T>,
        from: View<'_, T>,
    ) -> Result<(), CudaError> {
        assert_eq!(to.len, from.len, "elements to copy");
        if to.len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: both views lie inside allocations of this device.
        unsafe {
            let bytes = to.len * size_of::<T>();
            result::memcpy_dtod_async(to.pointer, from.pointer, bytes, self.stream)
        }
        .map_err(CudaError::driver("copying on the GPU"))
    }

    /// Sets every byte of a view.
    pub fn fill<T: Pod>(&self, to: &mut ViewMut<'_, T>, byte: u8) -> Result<(), CudaError> {
        if to.len == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the view lies inside an allocation, and any bits are a `Pod`.
        unsafe { result::memset_d8_async(to.pointer, byte, to.len * size_of::<T>(), self.stream) }
            .map_err(CudaError::driver("filling GPU memory"))
    }

    /// Waits for everything asked for so far. A fault of a kernel shows here.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.bind()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }
            .map_err(CudaError::driver("waiting for the GPU"))
    }
}

/// What a run may plan with of what is free, or of what a smaller card would have free: not the whole of it, for
/// the kernels' code and the driver's rounding of allocations (to 2 MiB) come on top.
fn usable(free_bytes: usize) -> usize {
    free_bytes - (free_bytes / 16).min(256 << 20)
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.synchronize().is_err() {
            return;
        }
        for &module in self.modules.get_mut().map(|map| map.values()).into_iter().flatten() {
            // SAFETY: loaded by this context, and no launch can follow.
            let _ = unsafe { result::module::unload(module) };
        }
        // SAFETY: created by `open`, and no work can follow.
        let _ = unsafe { result::stream::destroy(self.stream) };
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("info", &self.info).field("limit", &self.limit).finish()
    }
}
