//! How far the device has come: a word in host memory that it writes in the order of its stream.
//!
//! Launches are asked for long before they run, so the call that tells of a fault is not the one that caused
//! it. The word outlives the fault.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::device::Cuda;
use super::error::CudaError;

/// A number that the device sets when it has done all that was asked for before.
pub struct Mark {
    cuda: Arc<Cuda>,
    word: NonNull<u32>,
    /// The same word as the device sees it; `None` where the driver cannot write to it.
    device: Option<sys::CUdeviceptr>,
}

// SAFETY: the word is the driver's pinned memory, which any thread may read and free.
unsafe impl Send for Mark {}
// SAFETY: shared access only reads the word, in one volatile load.
unsafe impl Sync for Mark {}

impl Mark {
    /// Allocates it, at 0.
    pub fn new(cuda: &Arc<Cuda>) -> Result<Self, CudaError> {
        cuda.bind()?;
        let doing = CudaError::driver("allocating pinned memory");
        // SAFETY: plain pinned memory; it is freed when the mark is dropped.
        let word = unsafe { result::malloc_host(size_of::<u32>(), sys::CU_MEMHOSTALLOC_DEVICEMAP) };
        let word = NonNull::new(word.map_err(doing)?.cast::<u32>());
        let word = word.expect("the driver's allocation is not null");
        // SAFETY: just allocated, and four bytes long.
        unsafe { word.write_volatile(0) };
        let mut device = 0;
        // SAFETY: the pointers are to a local and to the allocation.
        let found =
            unsafe { sys::cuMemHostGetDevicePointer_v2(&mut device, word.as_ptr().cast(), 0) };
        let device = found.result().is_ok().then_some(device);
        Ok(Self { cuda: cuda.clone(), word, device })
    }

    /// Sets it from here, while the device has nothing to do.
    pub fn reset(&mut self, value: u32) {
        // SAFETY: allocated until the mark is dropped, and the device writes nothing now.
        unsafe { self.word.write_volatile(value) };
    }

    /// Has the device set it when all that was asked for before is done.
    ///
    /// # Errors
    /// A fault of something that was asked for before.
    pub fn set(&mut self, value: u32) -> Result<(), CudaError> {
        let Some(device) = self.device else { return Ok(()) };
        self.cuda.bind()?;
        // SAFETY: the word is allocated until the mark is dropped, which waits.
        let asked = unsafe { sys::cuStreamWriteValue32_v2(self.cuda.stream, device, value, 0) };
        match asked.result() {
            // A driver without it: faults are told without the place.
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_SUPPORTED => {
                self.device = None;
                Ok(())
            }
            other => other.map_err(CudaError::driver("working on the GPU")),
        }
    }

    /// The last number that the device has set; `None` where its driver cannot.
    pub fn value(&self) -> Option<u32> {
        // SAFETY: allocated until the mark is dropped; a word is read whole.
        self.device.map(|_| unsafe { self.word.read_volatile() })
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // The device may still have to write it. After a fault there is nothing left to wait for.
        let _ = self.cuda.synchronize();
        // SAFETY: allocated by `new`, and nothing uses it any more.
        let _ = unsafe { result::free_host(self.word.as_ptr().cast()) };
    }
}
