//! Bytes that are owned or lie in a memory-mapped file, behind one type.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

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
