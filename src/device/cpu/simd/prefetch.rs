//! Hints that fetch memory into the caches before it is needed. They change no result.

use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// The matrix in memory that a panel is packed from, so that it can be fetched ahead.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// Nothing worth fetching: in some cache already.
    Cached,
    /// `[n, k]`, a column of the panel being a row of `pitch` bytes here.
    Rows { data: &'a [u8], pitch: usize },
    /// `[k, n]`, rows of `pitch` bytes, of which a column of the panel takes `bits`.
    Columns { data: &'a [u8], pitch: usize, bits: usize },
}

impl Source<'_> {
    /// The same with these rows only, where rows are the contraction.
    pub fn rows(self, rows: &Range<usize>) -> Self {
        match self {
            Source::Columns { data, pitch, bits } => {
                let data = data.get(rows.start * pitch..rows.end * pitch).unwrap_or(&[]);
                Source::Columns { data, pitch, bits }
            }
            other => other,
        }
    }

    /// Asks for part `part` of `parts` of what these columns are packed from.
    pub fn fetch(self, columns: &Range<usize>, part: usize, parts: usize) {
        let share = |all: Range<usize>| {
            let at = |part: usize| all.start + all.len() * part / parts;
            at(part)..at(part + 1)
        };
        match self {
            Source::Cached => {}
            Source::Rows { data, pitch } => {
                let bytes = share(columns.start * pitch..columns.end * pitch);
                // A line that two parts share is fetched by both; the second finds it there.
                if let Some(bytes) = data.get(bytes) {
                    bytes.chunks(LINE).for_each(|line| prefetch(line.as_ptr()));
                }
            }
            Source::Columns { pitch: 0, .. } => {}
            Source::Columns { .. } if columns.is_empty() => {}
            Source::Columns { data, pitch, bits } => {
                let (first, last) = (columns.start * bits / 8, (columns.end * bits - 1) / 8);
                for row in share(0..data.len() / pitch) {
                    let row = &data[row * pitch..][..pitch];
                    if let (Some(first), Some(last)) = (row.get(first), row.get(last)) {
                        prefetch(first);
                        prefetch(last);
                    }
                }
            }
        }
    }
}

/// Asks for the lines of a slice that will be written soon: a store to a line that is nowhere near waits for
/// memory, and the stores behind it wait in line.
#[inline(always)]
pub fn will_write<T>(out: &mut [T]) {
    let (start, bytes) = (out.as_ptr().cast::<u8>(), size_of_val(out));
    for offset in (0..bytes).step_by(LINE) {
        prefetch_first(start.wrapping_add(offset));
    }
    prefetch_first(start.wrapping_add(bytes.saturating_sub(1)));
}

/// Asks for a line to be brought into the first-level cache.
#[inline(always)]
fn prefetch_first(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint about any address; SSE is part of the target.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for a line to be brought into the second-level cache.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint about any address; SSE is part of the target.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
