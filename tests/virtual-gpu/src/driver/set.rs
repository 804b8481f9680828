//! Fills: cuMemset and its like.

use super::abi::call;
use super::error::{Error, Result};
use super::memory::refused;
use super::state::Driver;
use super::stream::stream;
use super::work::{Work, submit};

/// `rows` of `width` elements of 1, 2 or 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fill {
    pub at: u64,
    /// Bytes from row to row.
    pub pitch: u64,
    pub value: u32,
    /// Bytes of an element.
    pub element: u32,
    /// Elements in a row.
    pub width: u64,
    pub rows: u64,
}

impl Fill {
    /// # Errors
    /// `InvalidValue` for an address that is not a multiple of the element, or rows wider than the pitch.
    pub fn check(&self) -> Result {
        let bytes = self.width.checked_mul(u64::from(self.element)).ok_or(Error::InvalidValue)?;
        let aligned = |n: u64| n.is_multiple_of(u64::from(self.element));
        let good = [1, 2, 4].contains(&self.element)
            && aligned(self.at)
            && (self.rows <= 1 || (aligned(self.pitch) && bytes <= self.pitch));
        if good { Ok(()) } else { Err(Error::InvalidValue) }
    }

    /// # Errors
    /// `InvalidValue` where the bytes are in no allocation; a line on stderr says which.
    pub fn run(&self, driver: &Driver) -> Result {
        if self.width == 0 {
            return Ok(());
        }
        for row in 0..self.rows {
            let at = self.at.wrapping_add(row.wrapping_mul(self.pitch));
            let memory = driver.gpu.memory();
            memory
                .fill(at, self.value, self.element, self.width)
                .map_err(|wrong| refused("memset", &wrong))?;
        }
        Ok(())
    }
}

fn fill(handle: usize, fill: Fill) -> Result {
    fill.check()?;
    submit(&stream(handle)?, Work::Fill(fill))
}

fn flat(at: u64, value: u32, element: u32, width: usize) -> Fill {
    Fill { at, pitch: 0, value, element, width: width as u64, rows: 1 }
}

fn rows(at: u64, pitch: usize, value: u32, element: u32, width: usize, rows: usize) -> Fill {
    Fill { at, pitch: pitch as u64, value, element, width: width as u64, rows: rows as u64 }
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8_v2(at: u64, value: u8, count: usize) -> u32 {
    call("cuMemsetD8_v2", || fill(0, flat(at, value.into(), 1, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16_v2(at: u64, value: u16, count: usize) -> u32 {
    call("cuMemsetD16_v2", || fill(0, flat(at, value.into(), 2, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32_v2(at: u64, value: u32, count: usize) -> u32 {
    call("cuMemsetD32_v2", || fill(0, flat(at, value, 4, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD8Async(at: u64, value: u8, count: usize, stream: usize) -> u32 {
    call("cuMemsetD8Async", || fill(stream, flat(at, value.into(), 1, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD16Async(at: u64, value: u16, count: usize, stream: usize) -> u32 {
    call("cuMemsetD16Async", || fill(stream, flat(at, value.into(), 2, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD32Async(at: u64, value: u32, count: usize, stream: usize) -> u32 {
    call("cuMemsetD32Async", || fill(stream, flat(at, value, 4, count)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D8_v2(
    at: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
) -> u32 {
    call("cuMemsetD2D8_v2", || fill(0, rows(at, pitch, value.into(), 1, width, height)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D16_v2(
    at: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
) -> u32 {
    call("cuMemsetD2D16_v2", || fill(0, rows(at, pitch, value.into(), 2, width, height)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D32_v2(
    at: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
) -> u32 {
    call("cuMemsetD2D32_v2", || fill(0, rows(at, pitch, value, 4, width, height)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D8Async(
    at: u64,
    pitch: usize,
    value: u8,
    width: usize,
    height: usize,
    stream: usize,
) -> u32 {
    call("cuMemsetD2D8Async", || fill(stream, rows(at, pitch, value.into(), 1, width, height)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D16Async(
    at: u64,
    pitch: usize,
    value: u16,
    width: usize,
    height: usize,
    stream: usize,
) -> u32 {
    call("cuMemsetD2D16Async", || fill(stream, rows(at, pitch, value.into(), 2, width, height)))
}

#[unsafe(no_mangle)]
pub(super) extern "C" fn cuMemsetD2D32Async(
    at: u64,
    pitch: usize,
    value: u32,
    width: usize,
    height: usize,
    stream: usize,
) -> u32 {
    call("cuMemsetD2D32Async", || fill(stream, rows(at, pitch, value, 4, width, height)))
}

/// One word, in the order of the stream. There is nothing here that a barrier would hold back, so its flag
/// (CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER) changes nothing.
#[unsafe(no_mangle)]
extern "C" fn cuStreamWriteValue32_v2(handle: usize, at: u64, value: u32, flags: u32) -> u32 {
    call("cuStreamWriteValue32_v2", || {
        let place = stream(handle)?;
        if flags & !1 != 0 {
            return Err(Error::InvalidValue);
        }
        // A graph would hold it as a node of a kind that is not here.
        place.driver.captures.refuse_in_capture(&place)?;
        let word = flat(at, value, 4, 1);
        word.check()?;
        submit(&place, Work::Fill(word))
    })
}
