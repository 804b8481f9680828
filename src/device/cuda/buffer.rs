//! Device memory: an owned allocation, and typed views of it that borrow like slices.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{result, sys};

use super::device::Cuda;

/// An allocation of `len` elements on the device, freed when dropped.
pub struct Buf<T> {
    pub(super) cuda: Arc<Cuda>,
    pub(super) pointer: sys::CUdeviceptr,
    pub(super) len: usize,
    pub(super) of: PhantomData<T>,
}

/// Elements on the device, to read. Its own bounds are known to lie inside the allocation.
pub struct View<'a, T> {
    pub(super) pointer: sys::CUdeviceptr,
    pub(super) len: usize,
    of: PhantomData<&'a [T]>,
}

/// Elements on the device, to write (and read).
pub struct ViewMut<'a, T> {
    pub(super) pointer: sys::CUdeviceptr,
    pub(super) len: usize,
    of: PhantomData<&'a mut [T]>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<T: Pod> Buf<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All elements, to read.
    pub fn view(&self) -> View<'_, T> {
        View { pointer: self.pointer, len: self.len, of: PhantomData }
    }

    /// All elements, to write, where the caller sees to it that nothing else uses what is written.
    pub(super) fn shared_mut(&self) -> ViewMut<'_, T> {
        ViewMut { pointer: self.pointer, len: self.len, of: PhantomData }
    }

    /// All elements, to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { pointer: self.pointer, len: self.len, of: PhantomData }
    }
}

impl<T> Drop for Buf<T> {
    fn drop(&mut self) {
        let bytes = self.len * size_of::<T>();
        self.cuda.returned(bytes);
        if bytes > 0 && self.cuda.bind().is_ok() {
            // Kernels that were asked for may still use it. After a fault there is nothing left to free.
            let _ = self.cuda.synchronize();
            // SAFETY: allocated by the same context, nothing borrows it any more, and all work is done.
            let _ = unsafe { result::free_sync(self.pointer) };
        }
    }
}

impl<'a, T: Pod> View<'a, T> {
    /// No elements.
    pub fn empty() -> Self {
        View { pointer: 0, len: 0, of: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins on the device, for an argument that holds several addresses.
    pub fn address(&self) -> u64 {
        self.pointer
    }

    /// The elements `range`. Panics as a slice does when they are not inside.
    pub fn slice(self, range: Range<usize>) -> View<'a, T> {
        let (pointer, len) = sub::<T>(self.pointer, self.len, range);
        View { pointer, len, of: PhantomData }
    }

    /// The same bytes as elements of another type. Panics when length or alignment do not fit.
    pub fn cast<U: Pod>(self) -> View<'a, U> {
        let (pointer, len) = recast::<T, U>(self.pointer, self.len);
        View { pointer, len, of: PhantomData }
    }
}

impl<'a, T: Pod> ViewMut<'a, T> {
    /// No elements.
    pub fn empty() -> Self {
        ViewMut { pointer: 0, len: 0, of: PhantomData }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it begins on the device, for an argument that holds several addresses.
    pub fn address(&self) -> u64 {
        self.pointer
    }

    /// The elements `range`. Panics as a slice does when they are not inside.
    pub fn slice(self, range: Range<usize>) -> ViewMut<'a, T> {
        let (pointer, len) = sub::<T>(self.pointer, self.len, range);
        ViewMut { pointer, len, of: PhantomData }
    }

    /// The same bytes as elements of another type. Panics when length or alignment do not fit.
    pub fn cast<U: Pod>(self) -> ViewMut<'a, U> {
        let (pointer, len) = recast::<T, U>(self.pointer, self.len);
        ViewMut { pointer, len, of: PhantomData }
    }

    /// The first `mid` elements and the rest. Panics as a slice does when there are fewer.
    pub fn split_at(self, mid: usize) -> (ViewMut<'a, T>, ViewMut<'a, T>) {
        let (first, _) = sub::<T>(self.pointer, self.len, 0..mid);
        let (rest, len) = sub::<T>(self.pointer, self.len, mid..self.len);
        (
            ViewMut { pointer: first, len: mid, of: PhantomData },
            ViewMut { pointer: rest, len, of: PhantomData },
        )
    }

    /// Lends the elements for a shorter time.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { pointer: self.pointer, len: self.len, of: PhantomData }
    }

    /// The elements, to read from here on.
    pub fn into_view(self) -> View<'a, T> {
        View { pointer: self.pointer, len: self.len, of: PhantomData }
    }

    /// The elements, to read for a while.
    pub fn as_view(&self) -> View<'_, T> {
        View { pointer: self.pointer, len: self.len, of: PhantomData }
    }
}

fn sub<T>(pointer: sys::CUdeviceptr, len: usize, range: Range<usize>) -> (sys::CUdeviceptr, usize) {
    assert!(range.start <= range.end && range.end <= len, "{range:?} of {len} device elements");
    (pointer + (range.start * size_of::<T>()) as u64, range.end - range.start)
}

fn recast<T, U>(pointer: sys::CUdeviceptr, len: usize) -> (sys::CUdeviceptr, usize) {
    let bytes = len * size_of::<T>();
    assert!(
        bytes.is_multiple_of(size_of::<U>()) && pointer.is_multiple_of(align_of::<U>() as u64),
        "{bytes} device bytes at {pointer:#x} as elements of {} bytes",
        size_of::<U>()
    );
    (pointer, bytes / size_of::<U>())
}
