//! Bytes that many threads may reach at once, read and written as relaxed atomics.
//!
//! Kernels race on memory, by design (flags, spin locks) or by mistake (what the watchman looks for).
//! A plain access of the host would make that undefined behaviour; a relaxed atomic one costs the same
//! on every machine of today.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Reads `S` (1, 2, 4 or 8) bytes, zero-extended.
///
/// # Safety
/// The bytes are within a live region or the block's shared memory, at a multiple of `S`.
#[inline(always)]
pub unsafe fn load<const S: usize>(at: *const u8) -> u64 {
    // SAFETY: valid and aligned, says the caller; all accesses while a kernel runs are atomic.
    unsafe {
        match S {
            1 => u64::from(AtomicU8::from_ptr(at.cast_mut()).load(Relaxed)),
            2 => u64::from(AtomicU16::from_ptr(at.cast_mut().cast()).load(Relaxed)),
            4 => u64::from(AtomicU32::from_ptr(at.cast_mut().cast()).load(Relaxed)),
            _ => AtomicU64::from_ptr(at.cast_mut().cast()).load(Relaxed),
        }
    }
}

/// Writes the low `S` (1, 2, 4 or 8) bytes of a value.
///
/// # Safety
/// As for `load`, and nobody on the host holds a reference to them.
#[inline(always)]
pub unsafe fn store<const S: usize>(at: *mut u8, value: u64) {
    // SAFETY: as in `load`.
    unsafe {
        match S {
            1 => AtomicU8::from_ptr(at).store(value as u8, Relaxed),
            2 => AtomicU16::from_ptr(at.cast()).store(value as u16, Relaxed),
            4 => AtomicU32::from_ptr(at.cast()).store(value as u32, Relaxed),
            _ => AtomicU64::from_ptr(at.cast()).store(value, Relaxed),
        }
    }
}

/// Adds to `S` (4 or 8) bytes, wrapping, and returns what they were.
///
/// # Safety
/// As for `store`.
#[inline(always)]
pub unsafe fn add<const S: usize>(at: *mut u8, value: u64) -> u64 {
    // SAFETY: as in `store`.
    unsafe {
        match S {
            4 => u64::from(AtomicU32::from_ptr(at.cast()).fetch_add(value as u32, Relaxed)),
            _ => AtomicU64::from_ptr(at.cast()).fetch_add(value, Relaxed),
        }
    }
}

/// Replaces `S` (2, 4 or 8) bytes by `f` of them, atomically, and returns what they were.
///
/// # Safety
/// As for `store`.
#[inline(always)]
pub unsafe fn update<const S: usize>(at: *mut u8, mut f: impl FnMut(u64) -> u64) -> u64 {
    // SAFETY: as in `store`.
    unsafe {
        match S {
            2 => {
                let cell = AtomicU16::from_ptr(at.cast());
                let mut old = cell.load(Relaxed);
                loop {
                    let new = f(u64::from(old)) as u16;
                    match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                        Ok(_) => return u64::from(old),
                        Err(seen) => old = seen,
                    }
                }
            }
            4 => {
                let cell = AtomicU32::from_ptr(at.cast());
                let mut old = cell.load(Relaxed);
                loop {
                    let new = f(u64::from(old)) as u32;
                    match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                        Ok(_) => return u64::from(old),
                        Err(seen) => old = seen,
                    }
                }
            }
            _ => {
                let cell = AtomicU64::from_ptr(at.cast());
                let mut old = cell.load(Relaxed);
                loop {
                    match cell.compare_exchange_weak(old, f(old), Relaxed, Relaxed) {
                        Ok(_) => return old,
                        Err(seen) => old = seen,
                    }
                }
            }
        }
    }
}
