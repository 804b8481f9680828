//! What crosses the C interface: results, pointers to write to and to read from, strings.
//!
//! The exported functions take these types instead of raw pointers. A value of them can only come
//! from C, whose contract is that a pointer is null or good for its type and the length beside it;
//! null is told to the caller, and the rest of the driver has no raw pointers.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{Error, Result};

/// Runs the body of an exported function: an error becomes its code, a panic 999 and a line on stderr.
pub fn call(name: &'static str, body: impl FnOnce() -> Result) -> u32 {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => error as u32,
        Err(cause) => {
            let cause = match (cause.downcast_ref::<&str>(), cause.downcast_ref::<String>()) {
                (Some(text), _) => text,
                (_, Some(text)) => text.as_str(),
                _ => "a panic without a message",
            };
            tell(name, &format!("a bug of the virtual GPU, please report it: {cause}"));
            Error::Unknown as u32
        }
    }
}

/// One line on stderr: what the error's code alone does not say.
pub fn tell(name: &str, what: &str) {
    eprintln!("virtual GPU: {name}: {what}");
}

/// Where a function leaves a result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T> Out<T> {
    pub const fn null() -> Out<T> {
        Out(std::ptr::null_mut())
    }

    /// For a pointer to what another argument says the type of.
    pub fn from_pointer(pointer: *mut T) -> Out<T> {
        Out(pointer)
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The place after so many others.
    pub fn at(self, index: usize) -> Out<T> {
        Out(self.0.wrapping_add(index))
    }

    /// # Errors
    /// `InvalidValue` for a null pointer, so that nothing is done whose result cannot be told.
    pub fn check(self) -> Result {
        if self.0.is_null() || !self.0.is_aligned() { Err(Error::InvalidValue) } else { Ok(()) }
    }

    /// Leaves the result.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer.
    pub fn put(self, value: T) -> Result {
        self.check()?;
        // SAFETY: not null and aligned; C's contract is that it points to room for a `T`.
        unsafe { self.0.write(value) };
        Ok(())
    }

    /// Leaves the result where the caller wants it.
    pub fn put_if_wanted(self, value: T) {
        let _ = self.put(value);
    }

    /// Leaves several, one after the other.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer and something to leave there.
    pub fn put_all(self, values: impl IntoIterator<Item = T>) -> Result {
        for (i, value) in values.into_iter().enumerate() {
            self.check()?;
            // SAFETY: as in `put`; the caller of C gave room for as many as are left here.
            unsafe { self.0.add(i).write(value) };
        }
        Ok(())
    }

    /// What is there before the call, where a function reads and writes it.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer.
    pub fn get(self) -> Result<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).get()
    }
}

impl Out<c_char> {
    /// Leaves a string and its NUL, cut to `room` bytes.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer or no room.
    pub fn put_text(self, text: &str, room: usize) -> Result {
        let fits = text.len().min(room.checked_sub(1).ok_or(Error::InvalidValue)?);
        let bytes = text.as_bytes()[..fits].iter().chain(&[0]);
        self.put_all(bytes.map(|&byte| byte as c_char))
    }
}

/// What a function reads.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for In<T> {}

impl<T> In<T> {
    pub const fn null() -> In<T> {
        In(std::ptr::null())
    }
}

impl<T> From<Out<T>> for In<T> {
    fn from(out: Out<T>) -> In<T> {
        In(out.0.cast_const())
    }
}

// SAFETY: an address; whoever reads or writes there answers for it.
unsafe impl<T> Send for Out<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Out<T> {}

impl<T> From<Host> for In<T> {
    fn from(host: Host) -> In<T> {
        In(host.0.cast_const().cast())
    }
}

impl<T: Copy> In<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// # Errors
    /// `InvalidValue` for a null pointer.
    pub fn get(self) -> Result<T> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null; C's contract is that a `T` is there. It need not be aligned.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The first `count`, copied.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer, unless there are none to read.
    pub fn many(self, count: usize) -> Result<Vec<T>> {
        if count > 0 && self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null; C's contract is that `count` of `T` are there.
        Ok((0..count).map(|i| unsafe { self.0.add(i).read_unaligned() }).collect())
    }
}

/// A string of C: ends with a NUL.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*const c_char);

impl Text {
    /// # Errors
    /// `InvalidValue` for a null pointer or bytes that are not UTF-8.
    pub fn get(self) -> Result<String> {
        if self.0.is_null() {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null; C's contract is that it ends with a NUL.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map(str::to_owned).map_err(|_| Error::InvalidValue)
    }
}

/// Bytes of the host at an address that a caller gave: the near side of a copy, a kernel's argument.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host(*mut c_void);

impl Host {
    pub fn at(address: u64) -> Host {
        Host(std::ptr::with_exposed_provenance_mut(address as usize))
    }

    pub fn address(self) -> u64 {
        self.0.expose_provenance() as u64
    }

    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn offset(self, bytes: u64) -> Host {
        Host(self.0.wrapping_byte_add(bytes as usize))
    }

    /// The `len` bytes there.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer, unless nothing is to be read.
    pub fn bytes<'a>(self, len: u64) -> Result<&'a [u8]> {
        if len == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() || len > isize::MAX as u64 {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null; C's contract is that `len` bytes are there for as long as the call lasts,
        // and no slice of it outlives the call.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), len as usize) })
    }

    /// The `len` bytes there, to be overwritten.
    ///
    /// # Errors
    /// As [`Host::bytes`].
    pub fn bytes_mut<'a>(self, len: u64) -> Result<&'a mut [u8]> {
        if len == 0 {
            return Ok(&mut []);
        }
        if self.0.is_null() || len > isize::MAX as u64 {
            return Err(Error::InvalidValue);
        }
        // SAFETY: as in `bytes`, and C's contract is that the caller lets the call write there alone.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.cast(), len as usize) })
    }
}

impl Host {
    /// Copies `len` bytes from another place of the host; the two may overlap.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer.
    pub fn copy_from(self, from: Host, len: u64) -> Result {
        if self.0.is_null() || from.0.is_null() || len > isize::MAX as u64 {
            return Err(Error::InvalidValue);
        }
        // SAFETY: not null; C's contract is that `len` bytes are at both.
        unsafe { std::ptr::copy(from.0.cast::<u8>(), self.0.cast::<u8>(), len as usize) };
        Ok(())
    }
}

// SAFETY: an address; whoever reads or writes there answers for it.
unsafe impl Send for Host {}
// SAFETY: as above.
unsafe impl Sync for Host {}

/// A function of the host that a stream runs.
pub type HostFn = Option<unsafe extern "C" fn(*mut c_void)>;

/// What `cuStreamAddCallback` runs: stream, status, data.
pub type StreamCallback = Option<unsafe extern "C" fn(usize, u32, *mut c_void)>;

/// Runs a host function on what its caller gave with it.
pub fn run_host(function: HostFn, data: Host) -> Result {
    let function = function.ok_or(Error::InvalidValue)?;
    // SAFETY: the program gave function and data together for this call.
    unsafe { function(data.0) };
    Ok(())
}

/// Runs a stream's callback, told that all went well.
pub fn run_callback(function: StreamCallback, stream: usize, data: Host) -> Result {
    let function = function.ok_or(Error::InvalidValue)?;
    // SAFETY: the program gave function and data together for this call.
    unsafe { function(stream, 0, data.0) };
    Ok(())
}

/// Asks a program's function how much dynamic shared memory a block of so many threads takes.
pub type BlockToShared = Option<unsafe extern "C" fn(i32) -> usize>;

pub fn shared_for_block(function: BlockToShared, threads: u32, otherwise: usize) -> usize {
    // SAFETY: the program gave the function for this call; it takes a number and gives one.
    function.map_or(otherwise, |function| unsafe { function(threads as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_code() {
        assert_eq!(call("test", || Err(Error::NotFound)), 500);
        assert_eq!(call("test", || Ok(())), 0);
        assert_eq!(call("test", || panic!("the word")), 999);
    }

    #[test]
    fn null_is_an_error() {
        assert_eq!(Out::<u32>::null().put(1), Err(Error::InvalidValue));
        assert_eq!(In::<u32>::null().get(), Err(Error::InvalidValue));
        assert_eq!(In::<u32>::null().many(0), Ok(Vec::new()));
        assert_eq!(Host::at(0).bytes(1), Err(Error::InvalidValue));
    }
}
