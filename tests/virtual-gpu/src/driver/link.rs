//! The JIT linker: several PTX texts made one.
//!
//! What cuLinkComplete gives is a container of ours, magic, length and the linked text, for
//! cuModuleLoadData to take. Linking is done on the text: declarations whose definition is in another
//! text go, of weak definitions the first stays, and what one text keeps to itself is renamed where
//! another text uses the same name.

use std::sync::Mutex;

use super::abi::{Host, In, Out, Text, call, tell};
use super::error::{Error, Result};
use super::handle::lock;
use super::image::{Bytes, JitOptions};
use super::join::join;
use super::state::{driver, working};

/// First bytes of a linked image; then its length in bytes as a u64, then the text.
pub const MAGIC: &[u8; 8] = b"\x01VGPULNK";

/// A linker at work.
pub struct Link {
    jit: JitOptions,
    inputs: Mutex<Vec<Input>>,
    /// Good until the linker is destroyed, as the caller is promised.
    image: Mutex<Vec<u8>>,
}

pub struct Input {
    pub name: String,
    pub text: String,
}

/// The text of a linked image.
pub fn unpack(image: &[u8]) -> Option<String> {
    String::from_utf8(image.get(16..)?.to_vec()).ok()
}

fn pack(text: &str) -> Vec<u8> {
    let len = 16 + text.len() as u64;
    [&MAGIC[..], &len.to_le_bytes(), text.as_bytes()].concat()
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkCreate_v2(
    count: u32,
    options: In<u32>,
    values: Out<Host>,
    out: Out<usize>,
) -> u32 {
    call("cuLinkCreate_v2", || {
        let (driver, _) = working()?;
        out.check()?;
        let jit = JitOptions::new(count, options, values)?;
        jit.tell_nothing();
        let link = Link { jit, inputs: Mutex::default(), image: Mutex::default() };
        out.put(driver.links.insert(link))
    })
}

/// CUjitInputType.
const PTX: u32 = 1;
const FAT_BINARY: u32 = 2;
const LIBRARY: u32 = 4;

fn add(link: &Link, kind: u32, bytes: Vec<u8>, name: &str) -> Result {
    let refuse = |error, why: &str| {
        let why = format!("{name}: {why}");
        tell("cuLinkAddData", &why);
        link.jit.tell_error(&why);
        Err(error)
    };
    match kind {
        PTX | FAT_BINARY => {
            let text = Bytes::of(bytes).ptx(driver()?)?;
            lock(&link.inputs).push(Input { name: name.to_string(), text });
            Ok(())
        }
        // The device runtime, which some programs always add, is machine code that nothing here calls.
        LIBRARY => {
            tell("cuLinkAddData", &format!("{name}: a library of machine code, left out"));
            Ok(())
        }
        0 | 3 => refuse(Error::NoBinaryForGpu, "machine code cannot be linked; give PTX"),
        5 => refuse(Error::NotSupported, "NVVM code cannot be linked; give PTX"),
        _ => refuse(Error::InvalidValue, "no such kind of input"),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkAddData_v2(
    link: usize,
    kind: u32,
    data: Host,
    size: usize,
    name: Text,
    _count: u32,
    _options: In<u32>,
    _values: Out<Host>,
) -> u32 {
    call("cuLinkAddData_v2", || {
        let link = driver()?.links.get(link)?;
        let name = name.get().unwrap_or_else(|_| "unnamed input".to_string());
        let bytes = data.bytes(size as u64)?.to_vec();
        add(&link, kind, bytes, &name)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkAddFile_v2(
    link: usize,
    kind: u32,
    path: Text,
    _count: u32,
    _options: In<u32>,
    _values: Out<Host>,
) -> u32 {
    call("cuLinkAddFile_v2", || {
        let link = driver()?.links.get(link)?;
        let path = path.get()?;
        let bytes = std::fs::read(&path).map_err(|wrong| {
            tell("cuLinkAddFile", &format!("reading {path}: {wrong}"));
            Error::FileNotFound
        })?;
        add(&link, kind, bytes, &path)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkComplete(link: usize, image: Out<Host>, size: Out<usize>) -> u32 {
    call("cuLinkComplete", || {
        let driver = driver()?;
        let link = driver.links.get(link)?;
        image.check()?;
        let refuse = |error, why: &str| {
            tell("cuLinkComplete", why);
            link.jit.tell_error(why);
            Err(error)
        };
        let text = match join(&lock(&link.inputs)) {
            Ok(text) => text,
            Err(wrong) => return refuse(Error::InvalidPtx, &wrong.to_string()),
        };
        // As ptxas would, what does not compile is told here already.
        if let Err(wrong) = driver.gpu.load(&text) {
            return refuse(Error::InvalidPtx, &wrong.to_string());
        }
        let mut packed = lock(&link.image);
        *packed = pack(&text);
        image.put(Host::at(packed.as_mut_ptr().expose_provenance() as u64))?;
        size.put_if_wanted(packed.len());
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLinkDestroy(link: usize) -> u32 {
    call("cuLinkDestroy", || driver()?.links.remove(link).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_text_says_its_length() {
        let image = pack(".version 8.1");
        assert!(image.starts_with(MAGIC));
        assert_eq!(u64::from_le_bytes(image[8..16].try_into().unwrap()), image.len() as u64);
        assert_eq!(unpack(&image).as_deref(), Some(".version 8.1"));
    }
}
