//! The NF4 cache: a quantised model in one file, mapped on the next start.
//!
//! A file is named after the model and a key, the hash of the source's content and of everything
//! else that the bytes depend on. What is in it follows from the model's configuration alone, so it
//! needs no table of contents:
//!
//! ```text
//! 0    magic "DAYRUNQ1"      8   payload length u64     16  key, 32 bytes
//! 48   tree hash of the payload, 32 bytes               128 payload
//! ```
//!
//! and the payload is, each part beginning at a multiple of 64 and padded with zeros: embedding,
//! head (unless tied), final norm; for each layer its seven linears, each as codes, 8-bit scales,
//! second-level scales (f32) and offset (f32), and its norms and biases. Numbers are little-endian.
//!
//! A file is written under a temporary name, synchronised and renamed. A file of the wrong size or
//! hash is reported and built again; a cache that cannot be written is reported and done without.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::{Linear, LlamaConfig};
use super::hash;
use super::parts;
use super::weights::{Dense, Weights};
use crate::device::bytes::Bytes;
use crate::quant::nf4::{BLOCK, NESTED_BLOCK};
use crate::quant::{Absmax, DYNAMIC_MAP, Nf4Matrix};

const MAGIC: &[u8; 8] = b"DAYRUNQ1";
const START: usize = 128;
const ALIGN: usize = 64;

/// `$DAYRUN_CACHE`, else `$XDG_CACHE_HOME/dayrun`, else `~/.cache/dayrun`; `None` when none of the
/// three variables is set.
pub fn default_dir() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("DAYRUN_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("dayrun")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache").join("dayrun")))
}

/// What is wrong with a cache file.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Damage {
    #[error("it has {found} bytes, expected {expected}")]
    Size { expected: usize, found: usize },
    #[error("its header is not that of this model's cache")]
    Header,
    #[error("its content does not have the hash in its header")]
    Hash,
}

/// The file for a model called `name` under `key`.
pub fn file(dir: &Path, name: &str, key: &[u8; 32]) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().take(80).map(plain).collect();
    dir.join(format!("{name}-{}.nf4", hash::hex(&key[..8])))
}

fn header(key: &[u8; 32], payload: &[u8]) -> [u8; START] {
    let mut header = [0; START];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[16..48].copy_from_slice(key);
    header[48..80].copy_from_slice(&hash::tree(payload));
    header
}

/// Takes a model from a mapped cache file.
///
/// Errors: [`Damage`] when the file is not wholly what was written.
pub fn read(
    bytes: &Bytes,
    key: &[u8; 32],
    config: &LlamaConfig,
    identity: String,
) -> Result<Weights, Damage> {
    if bytes.len() < START {
        return Err(Damage::Size { expected: START, found: bytes.len() });
    }
    if bytes[..8] != *MAGIC || bytes[16..48] != *key {
        return Err(Damage::Header);
    }
    let mut length = [0; 8];
    length.copy_from_slice(&bytes[8..16]);
    let expected = (u64::from_le_bytes(length) as usize).saturating_add(START);
    if bytes.len() != expected {
        return Err(Damage::Size { expected, found: bytes.len() });
    }
    if bytes[..START] != header(key, &bytes[START..]) {
        return Err(Damage::Hash);
    }
    let mut reader = Reader { bytes, at: START };
    let weights = reader.weights(config, identity)?;
    match reader.at == bytes.len() {
        true => Ok(weights),
        false => Err(Damage::Size { expected: reader.at, found: bytes.len() }),
    }
}

struct Reader<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn part(&mut self, len: usize) -> Result<Bytes, Damage> {
        let part = self.bytes.window(self.at, len);
        self.at += len.next_multiple_of(ALIGN);
        part.ok_or(Damage::Size { expected: self.at, found: self.bytes.len() })
    }

    fn dense(&mut self, rows: usize, cols: usize) -> Result<Dense, Damage> {
        Ok(Dense::new(rows, cols, self.part(rows * cols * 2)?))
    }

    fn floats(&mut self, len: usize) -> Result<Arc<[f32]>, Damage> {
        let part = self.part(len * 4)?;
        Ok(part.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }

    fn linear(&mut self, rows: usize, cols: usize) -> Result<Nf4Matrix, Damage> {
        let blocks = (rows * cols).div_ceil(BLOCK);
        let codes = self.part((rows * cols).div_ceil(2))?;
        let absmax = Absmax::Nested {
            codes: self.part(blocks)?,
            absmax2: self.floats(blocks.div_ceil(NESTED_BLOCK))?,
            offset: self.floats(1)?[0],
            map: DYNAMIC_MAP.into(),
        };
        Ok(Nf4Matrix { rows, cols, codes, absmax })
    }

    fn weights(&mut self, config: &LlamaConfig, identity: String) -> Result<Weights, Damage> {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let embed_tokens = self.dense(vocab, hidden)?;
        let lm_head = match config.tie_word_embeddings {
            true => None,
            false => Some(self.dense(vocab, hidden)?),
        };
        let norm = self.dense(1, hidden)?;
        let mut layers = Vec::new();
        for _ in 0..config.num_hidden_layers {
            let mut linears = Vec::new();
            for linear in Linear::ALL {
                let (rows, cols) = linear.shape(config);
                linears.push(self.linear(rows, cols)?.into());
            }
            let linears = linears.try_into().unwrap_or_else(|_| unreachable!("seven linears"));
            layers.push(parts::layer(config, linears, |_, len| self.dense(1, len))?);
        }
        let config = config.clone();
        Ok(Weights { config, embed_tokens, layers, norm, lm_head, identity })
    }
}

/// Writes `weights` to `path`, by way of a temporary file in its directory, which is made.
///
/// Errors: those of the file system; [`io::ErrorKind::InvalidInput`] for linears that are not in NF4 or
/// whose scales are not doubly quantised.
pub fn write(path: &Path, key: &[u8; 32], weights: &Weights) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut temporary = tempfile::Builder::new().prefix(".nf4-").tempfile_in(dir)?;
    let mut out = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    out.write_all(&[0; START])?;
    part(&mut out, &weights.embed_tokens.data)?;
    if let Some(head) = &weights.lm_head {
        part(&mut out, &head.data)?;
    }
    part(&mut out, &weights.norm.data)?;
    for layer in &weights.layers {
        for linear in &layer.linears {
            let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
            let linear = linear.as_nf4().ok_or_else(|| invalid("a weight that is not in NF4"))?;
            let Absmax::Nested { codes, absmax2, offset, .. } = &linear.absmax else {
                return Err(invalid("scales in f32"));
            };
            part(&mut out, &linear.codes)?;
            part(&mut out, codes)?;
            part(&mut out, &absmax2.iter().flat_map(|a| a.to_le_bytes()).collect::<Vec<_>>())?;
            part(&mut out, &offset.to_le_bytes())?;
        }
        for vector in layer.vectors() {
            part(&mut out, &vector.data)?;
        }
    }
    out.flush()?;
    drop(out);
    let written = Bytes::map(temporary.path())?;
    let header = header(key, &written[START..]);
    drop(written);
    let file = temporary.as_file_mut();
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&header)?;
    file.sync_all()?;
    temporary.persist(path)?;
    Ok(())
}

fn part(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(bytes)?;
    out.write_all(&[0; ALIGN][..bytes.len().next_multiple_of(ALIGN) - bytes.len()])
}
