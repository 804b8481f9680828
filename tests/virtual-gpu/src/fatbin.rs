//! The PTX in a fat binary: what `fatbinary` and `nvcc -fatbin` write and a module is loaded from.
//!
//! NVIDIA documents the container's magic and sizes (`fatbinary_section.h`), not its entries. Their
//! layout, as observed in what fatbinary 13.5 writes (little endian, offsets in bytes):
//!
//! ```text
//! container   0 u32 0xBA55ED50   4 u16 version 1   6 u16 header's bytes (16)   8 u64 bytes behind it
//! entry       0 u16 kind: 1 PTX, 2 cubin, 0x100 several in one
//!             4 u32 header's bytes           8 u64 payload's bytes, padded to 8
//!            16 u32 compressed bytes or 0   20 u32 where options begin in the header
//!            24 u16 minor, 26 u16 major version of PTX   28 u32 architecture (80)
//!            32 u32 name's offset           36 u32 name's bytes
//!            40 u64 flags: 1 64-bit, 2 debug, 0x10 Linux, 0x2000 LZ4, 0x8000 zstd
//!            56 u64 bytes once decompressed
//! ```
//!
//! LZ4 is one raw block, zstd one frame. PTX ends in zeros up to the padding.

use std::io::Read;

/// The container's magic number.
pub const MAGIC: u32 = 0xBA55_ED50;

/// The magic number of `__fatBinC_Wrapper_t`, which points at a container.
pub const WRAPPER_MAGIC: u32 = 0x4662_43B1;

const KIND_PTX: u16 = 1;
const KIND_CONCATENATED: u16 = 0x100;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;

/// No text of PTX is this long; what claims to be is broken.
const LONGEST: u64 = 1 << 30;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FatbinError {
    #[error("fat binary: begins with {found:#010x}, not 0xBA55ED50; is it PTX text or a cubin?")]
    Magic { found: u32 },
    #[error(
        "fat binary: {what} at byte {at} needs {needed} bytes, {left} are left; is it cut off?"
    )]
    Truncated { what: &'static str, at: usize, needed: u64, left: usize },
    #[error("fat binary: the entry at byte {at} {what}; build it without {option}")]
    Unsupported { at: usize, what: &'static str, option: &'static str },
    #[error(
        "fat binary: the PTX at byte {at} claims {bytes} bytes, more than the {most} it can have"
    )]
    TooLong { at: usize, bytes: u64, most: u64 },
    #[error("fat binary: the PTX at byte {at} does not decompress with {method}: {reason}")]
    Decompress { at: usize, method: &'static str, reason: String },
    #[error("fat binary: the PTX at byte {at} is not text: byte {byte} of it is no UTF-8")]
    NotText { at: usize, byte: usize },
    #[error(
        "fat binary: no PTX in it ({entries} entries, all machine code); build it with PTX too, as in \
         -gencode arch=compute_80,code=compute_80"
    )]
    NoPtx { entries: usize },
}

/// The whole container's bytes, as its first 16 say; `None` if they are no container's.
pub fn size_of(header: &[u8]) -> Option<u64> {
    let magic = u32_at(header, 0)?;
    let own = u16_at(header, 6)? as u64;
    (magic == MAGIC).then(|| u64_at(header, 8).and_then(|rest| rest.checked_add(own)))?
}

/// The PTX texts of a container, in its order; each says in `.target` what it is for.
///
/// # Errors
///
/// What is no container, is cut off, holds no PTX, or holds it in a way that is not read.
pub fn ptx_of(bytes: &[u8]) -> Result<Vec<String>, FatbinError> {
    let all = bytes;
    let truncated = |what, at: usize, needed| {
        let left = all.len().saturating_sub(at);
        FatbinError::Truncated { what, at, needed, left }
    };
    let magic = u32_at(bytes, 0).ok_or_else(|| truncated("the magic number", 0, 4))?;
    if magic != MAGIC {
        return Err(FatbinError::Magic { found: magic });
    }
    let size = size_of(bytes).ok_or_else(|| truncated("the container's header", 0, 16))?;
    let end = usize::try_from(size).ok().filter(|&end| end <= bytes.len());
    let bytes = &bytes[..end.ok_or_else(|| truncated("the container", 0, size))?];
    let mut at = u16_at(bytes, 6).unwrap_or(0) as usize;
    let mut texts = Vec::new();
    let mut entries = 0;
    while at < bytes.len() {
        let entry = &bytes[at..];
        let header = Header::read(entry).ok_or_else(|| truncated("an entry's header", at, 64))?;
        let needed = header.header_bytes.saturating_add(header.payload_bytes);
        let inside = header.header_bytes >= 64 && needed <= entry.len() as u64;
        if !inside {
            return Err(truncated("an entry", at, needed.max(64)));
        }
        entries += 1;
        let payload = &entry[header.header_bytes as usize..needed as usize];
        match header.kind {
            KIND_PTX => texts.push(text(at, &header, payload)?),
            KIND_CONCATENATED => {
                let what = "holds several images compressed as one";
                return Err(FatbinError::Unsupported { at, what, option: "--concat" });
            }
            _ => {}
        }
        at += needed as usize;
    }
    match texts.is_empty() {
        true => Err(FatbinError::NoPtx { entries }),
        false => Ok(texts),
    }
}

struct Header {
    kind: u16,
    header_bytes: u64,
    payload_bytes: u64,
    compressed_bytes: u32,
    flags: u64,
    decompressed_bytes: u64,
}

impl Header {
    fn read(entry: &[u8]) -> Option<Header> {
        Some(Header {
            kind: u16_at(entry, 0)?,
            header_bytes: u32_at(entry, 4)? as u64,
            payload_bytes: u64_at(entry, 8)?,
            compressed_bytes: u32_at(entry, 16)?,
            flags: u64_at(entry, 40)?,
            decompressed_bytes: u64_at(entry, 56)?,
        })
    }
}

/// The text of the PTX entry at `at`.
fn text(at: usize, header: &Header, payload: &[u8]) -> Result<String, FatbinError> {
    let compressed = payload.get(..header.compressed_bytes as usize).ok_or({
        let (needed, left) = (header.compressed_bytes as u64, payload.len());
        FatbinError::Truncated { what: "compressed PTX", at, needed, left }
    })?;
    let bytes = header.decompressed_bytes;
    let within = |most: u64| match bytes <= most {
        true => Ok(bytes as usize),
        false => Err(FatbinError::TooLong { at, bytes, most }),
    };
    let failed = |method, reason: String| FatbinError::Decompress { at, method, reason };
    let mut text = if header.flags & FLAG_LZ4 != 0 {
        // A byte of an LZ4 block stands for 255 bytes at most.
        let bytes = within(LONGEST.min(compressed.len() as u64 * 255))?;
        let result = lz4_flex::block::decompress(compressed, bytes);
        result.map_err(|error| failed("LZ4", error.to_string()))?
    } else if header.flags & FLAG_ZSTD != 0 {
        let bytes = within(LONGEST)?;
        let mut text = Vec::new();
        // It grows as the frame is read, so what the header claims is never allocated unseen.
        let frame = ruzstd::decoding::StreamingDecoder::new(compressed);
        let frame = frame.map_err(|error| failed("zstd", error.to_string()))?;
        let result = frame.take(bytes as u64 + 1).read_to_end(&mut text);
        result.map_err(|error| failed("zstd", error.to_string()))?;
        text
    } else {
        payload.to_vec()
    };
    if header.flags & (FLAG_LZ4 | FLAG_ZSTD) != 0 && text.len() as u64 != bytes {
        let method = if header.flags & FLAG_LZ4 != 0 { "LZ4" } else { "zstd" };
        return Err(failed(
            method,
            format!("other than the {bytes} bytes it should have came out"),
        ));
    }
    while text.last() == Some(&0) {
        text.pop();
    }
    String::from_utf8(text)
        .map_err(|error| FatbinError::NotText { at, byte: error.utf8_error().valid_up_to() })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
