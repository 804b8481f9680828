//! One range of device memory: its bytes on the host, and which of them were ever written.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::watch::global::Shadow;

/// Above this the operating system is asked for pages of their own, which cost nothing until they are
/// touched; below it the allocator is cheaper and does not run out of mappings.
const MAPPED_FROM: usize = 128 << 10;

/// Zeroed host memory, 16-byte aligned, committed page by page as it is touched.
#[derive(Debug)]
struct Pages {
    at: NonNull<u8>,
    bytes: usize,
}

impl Pages {
    fn new(bytes: usize) -> Option<Pages> {
        let bytes = bytes.max(16).checked_next_multiple_of(16)?;
        let at = if bytes >= MAPPED_FROM {
            // SAFETY: a fresh anonymous mapping overlaps nothing.
            let at = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    bytes,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                    -1,
                    0,
                )
            };
            if at == libc::MAP_FAILED { None } else { NonNull::new(at.cast()) }
        } else {
            let layout = Layout::from_size_align(bytes, 16).ok()?;
            // SAFETY: the size is not zero.
            NonNull::new(unsafe { alloc_zeroed(layout) })
        };
        Some(Pages { at: at?, bytes })
    }

    /// Zeroes a range that may be untouched so far, without touching it where that can be helped.
    /// False where the caller has to do it.
    fn discard(&self, offset: usize, len: usize) -> bool {
        const PAGE: usize = 4096;
        if cfg!(not(target_os = "linux")) || self.bytes < MAPPED_FROM || len < MAPPED_FROM {
            return false;
        }
        let (start, end) = (offset.next_multiple_of(PAGE), (offset + len) / PAGE * PAGE);
        // SAFETY: whole pages within our own private anonymous mapping, whose discarded pages read as
        // zeros again; the edges are within it, too.
        unsafe {
            let at = self.at.as_ptr();
            if libc::madvise(at.add(start).cast(), end - start, libc::MADV_DONTNEED) != 0 {
                return false;
            }
            at.add(offset).write_bytes(0, start - offset);
            at.add(end).write_bytes(0, offset + len - end);
        }
        true
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: made in `new` with this size, by the same of the two ways.
        unsafe {
            if self.bytes >= MAPPED_FROM {
                libc::munmap(self.at.as_ptr().cast(), self.bytes);
            } else {
                dealloc(self.at.as_ptr(), Layout::from_size_align_unchecked(self.bytes, 16));
            }
        }
    }
}

/// Where a region's bytes come from, and so who may give them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Device memory at an invented address.
    Device,
    /// Allocated here, seen by the device at its host address: pinned and managed memory.
    Host,
    /// The program's own memory, registered.
    Registered,
}

/// A live allocation or a registered range.
#[derive(Debug)]
pub struct Region {
    /// Device address of the first byte.
    pub base: u64,
    pub bytes: u64,
    /// Counts the allocations of its device, from 1.
    pub number: u64,
    pub origin: Origin,
    host: *mut u8,
    data: Option<Pages>,
    /// One bit a byte, set once it was written; `None` where that is not tracked (host memory).
    written: Option<Pages>,
    /// Every bit of `written` is set: what most checks need to look at.
    whole: AtomicBool,
    /// Who wrote and read it in the running launch: the watchman's.
    pub shadow: Shadow,
}

// SAFETY: the bytes behind `host` are reached by many threads at once, as on a GPU. Kernels use relaxed
// atomics for it (machine/memory/raw.rs); copies by the driver happen between launches.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Device memory; `None` if the host has no memory for it.
    pub fn device(base: u64, bytes: u64, number: u64) -> Option<Region> {
        let data = Pages::new(usize::try_from(bytes).ok()?)?;
        let written = Pages::new(usize::try_from(bytes.div_ceil(64) * 8).ok()?)?;
        Some(Region {
            base,
            bytes,
            number,
            origin: Origin::Device,
            host: data.at.as_ptr(),
            data: Some(data),
            written: Some(written),
            whole: AtomicBool::new(false),
            shadow: Shadow::default(),
        })
    }

    /// Host memory that the device sees at its own address.
    pub fn host(bytes: u64, number: u64) -> Option<Region> {
        let data = Pages::new(usize::try_from(bytes).ok()?)?;
        let host = data.at.as_ptr();
        Some(Region { data: Some(data), ..Region::registered(host, bytes, number, Origin::Host) })
    }

    /// A range of the program's memory.
    pub fn registered(host: *mut u8, bytes: u64, number: u64, origin: Origin) -> Region {
        Region {
            base: host as u64,
            bytes,
            number,
            origin,
            host,
            data: None,
            written: None,
            whole: AtomicBool::new(true),
            shadow: Shadow::default(),
        }
    }

    /// First address behind it.
    pub fn end(&self) -> u64 {
        self.base + self.bytes
    }

    /// Offset of `bytes` at `address` if all of them are within.
    #[inline(always)]
    pub fn offset(&self, address: u64, bytes: u64) -> Option<u64> {
        let offset = address.wrapping_sub(self.base);
        (offset < self.bytes && bytes <= self.bytes - offset).then_some(offset)
    }

    /// Where an offset lies on the host. `wrapping_add`, so that asking is safe for any offset; what is
    /// done with the pointer must have been checked with `offset`.
    #[inline(always)]
    pub fn pointer(&self, offset: u64) -> *mut u8 {
        self.host.wrapping_add(offset as usize)
    }

    /// Zeroes a range; large ones without touching their pages.
    pub fn zero(&self, offset: u64, len: u64) {
        let (offset, len) = (offset as usize, len as usize);
        if self.data.as_ref().is_some_and(|data| data.discard(offset, len)) {
            return;
        }
        // SAFETY: the caller has checked the range with `offset`.
        unsafe { self.pointer(offset as u64).write_bytes(0, len) };
    }

    /// Whether it is known that all of it was written.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        self.whole.load(Relaxed)
    }

    /// Whether every byte was written before: by the host, a fill, a copy or a kernel.
    #[inline]
    pub fn is_written(&self, offset: u64, len: u64) -> bool {
        if self.whole.load(Relaxed) {
            return true;
        }
        self.words(offset, len, |word, bits| word.load(Relaxed) & bits == bits)
    }

    /// Remembers that these bytes were written.
    #[inline]
    pub fn mark(&self, offset: u64, len: u64) {
        if self.whole.load(Relaxed) {
            return;
        }
        self.words(offset, len, |word, bits| {
            // Most stores find their bits set: reading first keeps the line shared between cores.
            if word.load(Relaxed) & bits != bits {
                word.fetch_or(bits, Relaxed);
            }
            true
        });
        if len == self.bytes {
            self.whole.store(true, Relaxed);
        }
    }

    /// Looks whether everything is written by now, so that checks need not look again.
    pub fn note_whole(&self) {
        if self.is_written(0, self.bytes) {
            self.whole.store(true, Relaxed);
        }
    }

    /// Takes over which bytes were written from another range (or this one) of the same length.
    pub fn copy_marks(&self, offset: u64, from: &Region, from_offset: u64, len: u64) {
        if from.is_written(from_offset, len) {
            self.mark(offset, len);
            return;
        }
        let Some(written) = &self.written else { return };
        self.whole.store(false, Relaxed);
        debug_assert!(written.bytes as u64 * 8 >= self.bytes);
        // All of them before the first is set: the ranges may overlap.
        let starts = || (0..len).step_by(64).map(|at| (at, (len - at).min(64)));
        let marks: Vec<u64> =
            starts().map(|(at, count)| from.marks(from_offset + at, count)).collect();
        for ((at, count), marks) in starts().zip(marks) {
            let mut rest = marks;
            let mut done = 0;
            while done < count {
                let first = (offset + at + done) % 64;
                let some = (64 - first).min(count - done);
                let bits = (u64::MAX >> (64 - some)) << first;
                let set = (rest << first) & bits;
                self.words(offset + at + done, some, |word, _| {
                    word.fetch_or(set, Relaxed);
                    word.fetch_and(set | !bits, Relaxed);
                    true
                });
                rest = rest.checked_shr(some as u32).unwrap_or(0);
                done += some;
            }
        }
    }

    /// The marks of up to 64 bytes, the first one lowest.
    fn marks(&self, offset: u64, len: u64) -> u64 {
        if self.is_whole() {
            return u64::MAX;
        }
        let marks = Cell::new(0);
        let taken = Cell::new(0);
        self.words(offset, len, |word, bits| {
            let part = (word.load(Relaxed) & bits) >> bits.trailing_zeros();
            marks.set(marks.get() | part << taken.get());
            taken.set(taken.get() + bits.count_ones());
            true
        });
        marks.get()
    }

    /// Calls `f` with every word of the bitmap in a range and the bits of it that count, until it is false.
    #[inline(always)]
    fn words(&self, offset: u64, len: u64, f: impl Fn(&AtomicU64, u64) -> bool) -> bool {
        let Some(written) = &self.written else { return true };
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let first = at % 64;
            let count = (64 - first).min(end - at);
            let bits = (u64::MAX >> (64 - count)) << first;
            debug_assert!(at < self.bytes);
            // SAFETY: offset + len is within the region (checked by the caller), which has a bit for every
            // byte; the words are aligned and only ever used as atomics.
            let word = unsafe {
                AtomicU64::from_ptr(written.at.as_ptr().cast::<u64>().add((at / 64) as usize))
            };
            if !f(word, bits) {
                return false;
            }
            at += count;
        }
        true
    }
}
