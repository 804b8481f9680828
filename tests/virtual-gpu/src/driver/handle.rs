//! Handles: what the program holds instead of pointers to the driver's objects.
//!
//! A handle is a number that was given once and never again, with its kind in the upper bits, so that
//! a destroyed handle, one of another kind and a made-up one are all told apart from a good one. No
//! such number is an address that a process can have (bits 48 and up are set), and none is ever
//! followed as a pointer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::error::{Error, Result};

/// The kinds, each with a table of its own.
#[derive(Clone, Copy)]
#[repr(u8)]
pub enum Kind {
    Context = 1,
    Module,
    Function,
    Stream,
    Event,
    Graph,
    GraphNode,
    GraphExec,
    Pool,
    Library,
    Link,
}

/// The objects of one kind by their handles.
pub struct Table<T> {
    kind: Kind,
    next: AtomicUsize,
    objects: Mutex<BTreeMap<usize, Arc<T>>>,
}

impl<T> Table<T> {
    pub const fn new(kind: Kind) -> Table<T> {
        Table { kind, next: AtomicUsize::new(1), objects: Mutex::new(BTreeMap::new()) }
    }

    /// A number for an object that must know its own handle.
    pub fn reserve(&self) -> usize {
        // The low bits stay free: some programs keep marks in what they take for a pointer.
        ((self.kind as usize) << 48) | (self.next.fetch_add(1, Ordering::Relaxed) << 4)
    }

    pub fn insert(&self, object: T) -> usize {
        let handle = self.reserve();
        self.insert_at(handle, object);
        handle
    }

    pub fn insert_at(&self, handle: usize, object: T) -> Arc<T> {
        let object = Arc::new(object);
        lock(&self.objects).insert(handle, object.clone());
        object
    }

    /// # Errors
    /// `InvalidHandle` for a handle that was never given or is destroyed.
    pub fn get(&self, handle: usize) -> Result<Arc<T>> {
        lock(&self.objects).get(&handle).cloned().ok_or(Error::InvalidHandle)
    }

    /// Destroys the handle; the object goes with its last user.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn remove(&self, handle: usize) -> Result<Arc<T>> {
        lock(&self.objects).remove(&handle).ok_or(Error::InvalidHandle)
    }

    /// Destroys what `keep` does not want.
    pub fn retain(&self, mut keep: impl FnMut(usize, &T) -> bool) {
        // Dropped after the lock is given back: an object's end may need the table.
        let gone: Vec<Arc<T>> = {
            let mut objects = lock(&self.objects);
            let handles: Vec<usize> =
                objects.iter().filter(|(h, o)| !keep(**h, o)).map(|(h, _)| *h).collect();
            handles.iter().filter_map(|handle| objects.remove(handle)).collect()
        };
        drop(gone);
    }

    /// The first object that `wanted` likes, with its handle.
    pub fn find(&self, wanted: impl Fn(&T) -> bool) -> Option<(usize, Arc<T>)> {
        lock(&self.objects).iter().find(|(_, object)| wanted(object)).map(|(h, o)| (*h, o.clone()))
    }
}

/// Locks; a thread that panicked inside has already been told on stderr, and the data is whole: every
/// lock of this driver is held for single assignments, insertions and removals.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_told_apart() {
        let streams = Table::new(Kind::Stream);
        let events = Table::new(Kind::Event);
        let first = streams.insert("first");
        let other = events.insert("other");
        assert_eq!(*streams.get(first).unwrap(), "first");
        assert_eq!(streams.get(other).unwrap_err(), Error::InvalidHandle);
        streams.remove(first).unwrap();
        assert_eq!(streams.get(first).unwrap_err(), Error::InvalidHandle);
        assert_eq!(streams.remove(first).unwrap_err(), Error::InvalidHandle);
        assert_ne!(streams.insert("second"), first);
    }

    #[test]
    fn retain_destroys_the_rest() {
        let table = Table::new(Kind::Module);
        let handles: Vec<usize> = (0..6).map(|i| table.insert(i)).collect();
        table.retain(|_, number| number % 2 == 0);
        for (i, handle) in handles.iter().enumerate() {
            assert_eq!(table.get(*handle).is_ok(), i % 2 == 0);
        }
        assert_eq!(table.find(|number| *number > 2).map(|(handle, _)| handle), Some(handles[4]));
    }
}
