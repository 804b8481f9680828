//! Kernel images: PTX text, fat binaries, and what our linker makes, told apart by their first bytes.
//!
//! A call gives an image by its address alone. Binary forms say their length; text ends with a NUL, and
//! a program that forgot it is found out here instead of in a crash (see [`Bytes::at`]).

use super::abi::{Host, In, Out, tell};
use super::error::{Error, Result};
use super::link;
use super::state::Driver;
use crate::fatbin;

const ELF: u32 = u32::from_le_bytes(*b"\x7fELF");

/// An image, copied.
pub struct Bytes(Vec<u8>);

impl Bytes {
    /// The image at an address.
    ///
    /// # Errors
    /// `InvalidValue` for a null pointer, `InvalidImage` for bytes that are no image.
    pub fn at(image: Host) -> Result<Bytes> {
        if image.is_null() {
            return Err(Error::InvalidValue);
        }
        let start = readable(image, 8, |bytes| bytes.len() >= 8);
        let magic = word(&start, 0).unwrap_or(0);
        match magic {
            // What nvcc puts before a fat binary: magic, version, address of the data, one more.
            fatbin::WRAPPER_MAGIC => {
                let wrapper = image.bytes(24)?;
                let data = long(wrapper, 8).ok_or(Error::InvalidImage)?;
                Bytes::at_fat_binary(Host::at(data))
            }
            fatbin::MAGIC => Bytes::at_fat_binary(image),
            ELF => Ok(Bytes(start)),
            _ if start.starts_with(link::MAGIC) => {
                let header = image.bytes(16)?;
                let len = long(header, 8).ok_or(Error::InvalidImage)?;
                Ok(Bytes(image.bytes(len)?.to_vec()))
            }
            _ => Bytes::at_text(image),
        }
    }

    fn at_fat_binary(image: Host) -> Result<Bytes> {
        let len = fatbin::size_of(image.bytes(16)?).ok_or(Error::InvalidImage)?;
        Ok(Bytes(image.bytes(len)?.to_vec()))
    }

    /// Text to its NUL. Where none comes before the memory ends, or before a byte that no PTX has, the
    /// text is what stands before: up to its last brace or semicolon, since a driver would read on.
    fn at_text(image: Host) -> Result<Bytes> {
        const LONGEST: usize = 1 << 30;
        let ends = |bytes: &[u8]| bytes.iter().any(|&byte| !is_text(byte));
        let mut bytes = readable(image, LONGEST, ends);
        let len = bytes.iter().position(|&byte| !is_text(byte)).unwrap_or(bytes.len());
        let ended = bytes.get(len) == Some(&0);
        bytes.truncate(len);
        if !ended {
            let code = bytes.iter().rposition(|&byte| byte == b'}' || byte == b';');
            bytes.truncate(code.map_or(0, |last| last + 1));
            tell(
                "module",
                "the PTX text does not end with a NUL: a GPU's driver reads on behind it",
            );
        }
        if bytes.is_empty() { Err(Error::InvalidImage) } else { Ok(Bytes(bytes)) }
    }

    /// The image in a file.
    ///
    /// # Errors
    /// `FileNotFound`.
    pub fn in_file(path: &str) -> Result<Bytes> {
        std::fs::read(path).map(Bytes).map_err(|wrong| {
            tell("module", &format!("reading {path}: {wrong}"));
            Error::FileNotFound
        })
    }

    pub fn of(bytes: Vec<u8>) -> Bytes {
        Bytes(bytes)
    }

    /// The PTX in it.
    ///
    /// # Errors
    /// `NoBinaryForGpu` for machine code, which only a GPU runs; `InvalidImage`.
    pub fn ptx(self, driver: &Driver) -> Result<String> {
        let bytes = self.0;
        match word(&bytes, 0) {
            Some(ELF) => {
                tell("module", "a cubin is machine code for a GPU; give PTX (nvcc -ptx) instead");
                return Err(Error::NoBinaryForGpu);
            }
            Some(fatbin::MAGIC) => return super::fatbin::ptx(driver, &bytes),
            _ => {}
        }
        if bytes.starts_with(link::MAGIC) {
            return link::unpack(&bytes).ok_or(Error::InvalidImage);
        }
        let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        String::from_utf8(text.to_vec()).map_err(|_| Error::InvalidImage)
    }
}

/// What PTX is written in: visible characters, white space, and UTF-8 in comments and file names.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | 0x0c | b' '..=b'~' | 0x80..=0xf4)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Bytes from an address on, page by page, until `enough` of a page says so, `most` are there, or the
/// process's memory ends. The kernel copies them, so that no page is touched that is not there.
fn readable(from: Host, most: usize, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    const PAGE: usize = 4096;
    let mut bytes = Vec::new();
    while bytes.len() < most {
        let at = from.offset(bytes.len() as u64).address() as usize;
        let len = (PAGE - at % PAGE).min(most - bytes.len());
        let mut page = vec![0_u8; len];
        let to = libc::iovec { iov_base: page.as_mut_ptr().cast(), iov_len: len };
        let address = std::ptr::with_exposed_provenance_mut(at);
        let source = libc::iovec { iov_base: address, iov_len: len };
        // SAFETY: `to` describes `page`; the source is read by the kernel, which fails where nothing is.
        let read = unsafe { libc::process_vm_readv(libc::getpid(), &to, 1, &source, 1, 0) };
        let Ok(read) = usize::try_from(read) else {
            // Not there; or the call is forbidden, as in some sandboxes: then the caller's word counts.
            if std::io::Error::last_os_error().raw_os_error() != Some(libc::EFAULT)
                && let Ok(there) = from.offset(bytes.len() as u64).bytes(len as u64)
            {
                bytes.extend_from_slice(there);
                if enough(there) {
                    break;
                }
                continue;
            }
            break;
        };
        bytes.extend_from_slice(&page[..read]);
        if enough(&page[..read]) || read < len {
            break;
        }
    }
    bytes
}

/// CU_JIT_ERROR_LOG_BUFFER and its like: the only options of the compiler that have a meaning here.
#[derive(Clone, Copy, Default)]
pub struct JitOptions {
    info: Option<Log>,
    error: Option<Log>,
    values: Option<Out<Host>>,
}

#[derive(Clone, Copy)]
struct Log {
    buffer: Host,
    room: u64,
    /// Which option has the size, where the length of the log is left.
    size_at: usize,
}

impl JitOptions {
    /// # Errors
    /// `InvalidValue` for null pointers with a count above 0.
    pub fn new(count: u32, options: In<u32>, values: Out<Host>) -> Result<JitOptions> {
        let count = count as usize;
        if count == 0 {
            return Ok(JitOptions::default());
        }
        values.check()?;
        let codes = options.many(count)?;
        let given = In::<Host>::from(values).many(count)?;
        let find = |code| codes.iter().position(|&found| found == code);
        let log = |buffer, size| {
            let (buffer, size_at) = (find(buffer)?, find(size)?);
            // Sizes stand in the place of the pointer.
            let room = given[size_at].address() & u64::from(u32::MAX);
            Some(Log { buffer: given[buffer], room, size_at })
        };
        Ok(JitOptions { info: log(3, 4), error: log(5, 6), values: Some(values) })
    }

    fn put(&self, log: Option<Log>, text: &str) {
        let (Some(log), Some(values)) = (log, self.values) else { return };
        let len = text.len().min(log.room.saturating_sub(1) as usize);
        if let Ok(buffer) = log.buffer.bytes_mut(log.room)
            && log.room > 0
        {
            buffer[..len].copy_from_slice(&text.as_bytes()[..len]);
            buffer[len] = 0;
        }
        let _ = values.at(log.size_at).put(Host::at(len as u64));
    }

    /// Leaves a message in the error log.
    pub fn tell_error(&self, text: &str) {
        self.put(self.error, text);
        self.put(self.info, "");
    }

    /// Leaves empty logs.
    pub fn tell_nothing(&self) {
        self.put(self.error, "");
        self.put(self.info, "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(bytes: &[u8]) -> Host {
        Host::at(bytes.as_ptr().expose_provenance() as u64)
    }

    #[test]
    fn text_ends_with_its_nul() {
        let text = b".version 8.1\n.func f() { ret; }\0}}}}";
        assert_eq!(Bytes::at(host(text)).unwrap().0, &text[..31]);
    }

    #[test]
    fn text_without_a_nul_ends_before_what_is_no_text() {
        let text = b".version 8.1\n.func f() { ret; }\n\x01}}}}";
        assert_eq!(Bytes::at(host(text)).unwrap().0, &text[..31]);
    }

    /// A text up to the very end of what the process has: nothing behind it is touched.
    #[test]
    fn text_at_the_end_of_memory() {
        let page = 4096;
        // SAFETY: a fresh mapping of two pages, of which the second is given back at once.
        let map = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let rights = libc::PROT_READ | libc::PROT_WRITE;
            let map = libc::mmap(std::ptr::null_mut(), 2 * page, rights, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            libc::munmap(map.byte_add(page), page);
            map.cast::<u8>()
        };
        let text = b".version 8.1\n.func f() { ret; }";
        // SAFETY: within the first page, which is ours alone.
        let place = unsafe {
            let place = map.add(page - text.len());
            place.copy_from_nonoverlapping(text.as_ptr(), text.len());
            std::slice::from_raw_parts(place, text.len())
        };
        assert_eq!(Bytes::at(host(place)).unwrap().0, text);
        // SAFETY: mapped above; the text's copy is not used any more.
        unsafe { libc::munmap(map.cast(), page) };
    }

    #[test]
    fn no_image_is_told() {
        assert_eq!(Bytes::at(host(b"\0\0\0\0\0\0\0\0")).err(), Some(Error::InvalidImage));
        assert_eq!(Bytes::at(Host::at(0)).err(), Some(Error::InvalidValue));
    }
}
