//! Bytes that are owned or lie in a memory-mapped file, behind one type.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice::DontNeed as DONT_NEED;

/// The largest page size of the machines in use.
const PAGE: usize = 64 << 10;

/// An immutable byte range: owned, or a window into a mapped file. Cloning is cheap.
#[derive(Clone)]
pub struct Bytes {
    storage: Storage,
    offset: usize,
    len: usize,
}

#[derive(Clone)]
enum Storage {
    Owned(Arc<Vec<u8>>),
    Mapped(Arc<Mmap>),
}

impl Bytes {
    /// Maps a file read-only. The file must not be changed while the map lives.
    pub fn map(path: &Path) -> std::io::Result<Self> {
        let file = std::fs::File::open(path)?;
        // SAFETY: the map is private and read-only; a model file that another process truncates
        // while we run is outside what any reader of mapped weights can defend against.
        let map = unsafe { Mmap::map(&file)? };
        let len = map.len();
        Ok(Self { storage: Storage::Mapped(Arc::new(map)), offset: 0, len })
    }

    /// Lets the system take back the memory of a mapped window that will not be read for a while: its
    /// whole pages, which come back from the file when they are read again. Owned bytes stay.
    pub fn release(&self) {
        let Storage::Mapped(map) = &self.storage else { return };
        // Pages of any size in use begin at multiples of this one. One that a neighbour shares stays.
        let first = self.offset.next_multiple_of(PAGE);
        let len = (self.offset + self.len).saturating_sub(first) / PAGE * PAGE;
        #[cfg(unix)]
        if len > 0 {
            // SAFETY: the map is read-only and of a file, so a page given back has the same bytes when it
            // is next read; references into it stay valid.
            let advised = unsafe { map.unchecked_advise_range(DONT_NEED, first, len) };
            if let Err(error) = advised {
                tracing::debug!(%error, "mapped pages are not given back");
            }
        }
        #[cfg(not(unix))]
        let _ = (map, first, len);
    }

    /// Whether they lie in a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.storage, Storage::Mapped(_))
    }

    /// The window `offset .. offset + len`, or `None` when it does not lie inside.
    pub fn window(&self, offset: usize, len: usize) -> Option<Self> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        Some(Self { storage: self.storage.clone(), offset: self.offset + offset, len })
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        Self { storage: Storage::Owned(Arc::new(bytes)), offset: 0, len }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &self.storage {
            Storage::Owned(bytes) => bytes,
            Storage::Mapped(map) => map,
        };
        &all[self.offset..self.offset + self.len]
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_released_is_read_again() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..5 * PAGE + 100).map(|i| (i / 3) as u8).collect();
        std::io::Write::write_all(&mut file, &content).unwrap();
        let all = Bytes::map(file.path()).unwrap();
        for (offset, len) in [(0, content.len()), (7, 3 * PAGE), (PAGE + 1, PAGE), (9, 0)] {
            let window = all.window(offset, len).unwrap();
            assert!(window[..] == content[offset..offset + len]);
            window.release();
            assert!(window[..] == content[offset..offset + len]);
        }
        let owned = Bytes::from(content.clone());
        owned.release();
        assert!(owned[..] == content[..]);
    }
}
