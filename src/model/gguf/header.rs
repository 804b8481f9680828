//! A GGUF file's header, read from mapped bytes with every length checked against the file.
//!
//! Layout (ggml's docs/gguf.md, versions 2 and 3, little-endian): magic `GGUF`, version u32, tensor
//! count u64, metadata count u64; metadata entries (string key, u32 type, value); tensor entries
//! (string name, u32 number of dimensions, u64 each, fastest first, u32 type, u64 offset); padding
//! to `general.alignment`; tensor data. A string is a u64 length and bytes.
//!
//! Arrays are kept where they lie and decoded when asked for, so memory use is bounded by what a
//! caller takes, not by what a hostile file declares.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::device::bytes::Bytes;
use crate::model::Error;

/// A metadata value. Integers of every width are one kind, floats another.
#[derive(Clone, Debug)]
pub enum Value {
    Int(i128),
    /// An f32 as the shortest decimal that gives it, so that 1e-5 reads as 1e-5.
    Float(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of scalars or strings, still in the file.
#[derive(Clone, Debug)]
pub struct Array {
    kind: u32,
    len: usize,
    data: Bytes,
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements, in order; arrays of arrays give none.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        let mut cursor = Cursor { data: &self.data, at: 0 };
        (0..self.len).map_while(move |_| cursor.scalar(self.kind).ok())
    }
}

/// One tensor of the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Slowest dimension first, as everywhere but in the file.
    pub shape: Vec<usize>,
    /// ggml's type number.
    pub kind: u32,
    /// The tensor's bytes, checked to lie inside the file.
    pub data: Bytes,
}

/// A mapped GGUF file: its metadata and where its tensors lie.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub path: PathBuf,
    pub metadata: HashMap<String, Value>,
    pub tensors: HashMap<String, TensorInfo>,
}

/// ggml's types that can be read: number, name, elements in a block, bytes of a block.
pub const TYPES: [(u32, &str, usize, usize); 14] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (30, "BF16", 1, 2),
];

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

impl Gguf {
    /// Maps `path` and reads its header.
    ///
    /// Errors: [`Error::Io`]; [`Error::Gguf`] with the place for whatever does not follow the format
    /// or points outside the file; [`Error::Unsupported`] for a version or tensor type.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source| Error::Io { doing: "opening", path: path.into(), source };
        let bytes = Bytes::map(path).map_err(io)?;
        Self::read(path, &bytes)
    }

    /// Reads a header from the bytes of a whole file; `path` is for messages.
    pub fn read(path: &Path, bytes: &Bytes) -> Result<Self, Error> {
        let mut cursor = Cursor { data: bytes, at: 0 };
        match read_all(bytes, &mut cursor) {
            Ok((metadata, tensors)) => Ok(Self { path: path.into(), metadata, tensors }),
            Err(Problem::Unsupported(what)) => Err(Error::Unsupported { path: path.into(), what }),
            Err(Problem::Malformed(problem)) => {
                Err(Error::Gguf { path: path.into(), offset: cursor.at, problem })
            }
        }
    }
}

enum Problem {
    Malformed(String),
    Unsupported(String),
}

impl<S: Into<String>> From<S> for Problem {
    fn from(problem: S) -> Self {
        Problem::Malformed(problem.into())
    }
}

/// A tensor's shape, type, offset and length in bytes.
type Place = (Vec<usize>, u32, u64, usize);

type Tables = (HashMap<String, Value>, HashMap<String, TensorInfo>);

fn read_all(bytes: &Bytes, cursor: &mut Cursor) -> Result<Tables, Problem> {
    if cursor.take(4)? != b"GGUF" {
        cursor.at = 0;
        return Err("not a GGUF file (wrong magic)".into());
    }
    let version = cursor.u32()?;
    if !(2..=3).contains(&version) {
        return Err(Problem::Unsupported(format!("GGUF version {version}")));
    }
    let tensor_count = cursor.count(24, "tensors")?;
    let metadata_count = cursor.count(13, "metadata entries")?;

    let mut metadata = HashMap::new();
    for _ in 0..metadata_count {
        let key = cursor.string()?;
        let kind = cursor.u32()?;
        let value = match kind {
            ARRAY => Value::Array(cursor.array(bytes)?),
            kind => cursor.scalar(kind)?,
        };
        if metadata.contains_key(&key) {
            return Err(format!("metadata key `{key}` occurs twice").into());
        }
        metadata.insert(key, value);
    }
    let alignment = match metadata.get("general.alignment") {
        None => 32,
        // The blocks hold 2- and 4-byte numbers, so their places must be aligned.
        Some(Value::Int(n)) if *n >= 8 && *n <= 1 << 20 && n.count_ones() == 1 => *n as usize,
        Some(other) => return Err(format!("`general.alignment` is {other:?}").into()),
    };

    let mut places = Vec::new();
    for _ in 0..tensor_count {
        let name = cursor.string()?;
        places.push((name, cursor.tensor()?));
    }
    let start = cursor.at.next_multiple_of(alignment);
    refuse_overlaps(&places)?;
    let mut tensors = HashMap::new();
    for (name, (shape, kind, offset, len)) in places {
        let data = usize::try_from(offset)
            .ok()
            .filter(|offset| offset.is_multiple_of(alignment))
            .and_then(|offset| bytes.window(start.checked_add(offset)?, len));
        let Some(data) = data else {
            return Err(format!(
                "tensor `{name}`: {len} bytes at {offset} do not lie in the file's {} \
                 (alignment {alignment})",
                bytes.len().saturating_sub(start)
            )
            .into());
        };
        if tensors.contains_key(&name) {
            return Err(format!("tensor `{name}` occurs twice").into());
        }
        tensors.insert(name, TensorInfo { shape, kind, data });
    }
    Ok((metadata, tensors))
}

/// No two tensors share a byte: in a file as its writer made it they never do.
fn refuse_overlaps(places: &[(String, Place)]) -> Result<(), Problem> {
    let mut taken: Vec<(u64, u64, &str)> = Vec::new();
    for (name, (_, _, offset, len)) in places {
        if *len > 0 {
            taken.push((*offset, offset.saturating_add(*len as u64), name));
        }
    }
    taken.sort_unstable();
    match taken.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        None => Ok(()),
        Some(pair) => Err(format!(
            "tensor `{}` begins at {}, before tensor `{}` ends at {}",
            pair[1].2, pair[1].0, pair[0].2, pair[0].1
        )
        .into()),
    }
}

/// A read position in `data`.
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let rest = &self.data[self.at..];
        let taken = rest
            .get(..len)
            .ok_or_else(|| format!("{len} bytes wanted, the file has {} more", rest.len()))?;
        self.at += len;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// A u64 number of things that take at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, String> {
        let count = u64::from_le_bytes(self.bytes()?);
        let rest = self.data.len() - self.at;
        match usize::try_from(count) {
            Ok(count) if count <= rest / least => Ok(count),
            _ => Err(format!("{count} {what} declared, the file has {rest} more bytes")),
        }
    }

    fn string(&mut self) -> Result<String, String> {
        let len = self.count(1, "bytes of a string")?;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map(str::to_string).map_err(|e| format!("string: {e}"))
    }

    fn scalar(&mut self, kind: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Int(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Int(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Int(u32::from_le_bytes(self.bytes()?).into()),
            5 => Value::Int(i32::from_le_bytes(self.bytes()?).into()),
            6 => {
                let value = f32::from_le_bytes(self.bytes()?);
                Value::Float(value.to_string().parse().unwrap_or(value.into()))
            }
            7 => match self.bytes::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("{other} is no boolean")),
            },
            STRING => Value::String(self.string()?),
            10 => Value::Int(u64::from_le_bytes(self.bytes()?).into()),
            11 => Value::Int(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(format!("metadata type {other} is unknown")),
        })
    }

    fn array(&mut self, bytes: &Bytes) -> Result<Array, String> {
        let kind = self.u32()?;
        let size = match kind {
            0 | 1 | BOOL => 1,
            2 | 3 => 2,
            4..=6 => 4,
            STRING | 10..=12 => 8,
            other => return Err(format!("array elements of type {other}")),
        };
        let len = self.count(size, "array elements")?;
        let start = self.at;
        if kind == STRING {
            for _ in 0..len {
                let bytes = self.count(1, "bytes of a string")?;
                let text = self.take(bytes)?;
                std::str::from_utf8(text).map_err(|e| format!("string: {e}"))?;
            }
        } else {
            let values = self.take(len * size)?;
            if kind == BOOL && values.iter().any(|&value| value > 1) {
                return Err("an array of bools with one that is neither 0 nor 1".into());
            }
        }
        let data = bytes.window(start, self.at - start).ok_or("array outside the file")?;
        Ok(Array { kind, len, data })
    }

    /// Shape, type, offset and length in bytes.
    fn tensor(&mut self) -> Result<Place, Problem> {
        let dims = self.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(format!("a tensor of {dims} dimensions").into());
        }
        let mut shape = Vec::new();
        for _ in 0..dims {
            let dim = u64::from_le_bytes(self.bytes()?);
            shape.push(usize::try_from(dim).map_err(|_| format!("dimension {dim}"))?);
        }
        let fastest = shape[0];
        shape.reverse();
        let kind = self.u32()?;
        let Some(&(_, name, block, size)) = TYPES.iter().find(|t| t.0 == kind) else {
            return Err(Problem::Unsupported(format!("ggml tensor type {kind}")));
        };
        if !fastest.is_multiple_of(block) {
            return Err(format!("rows of {fastest} in blocks of {block} ({name})").into());
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let len = elements.and_then(|n| (n / block).checked_mul(size));
        let len = len.ok_or_else(|| format!("a tensor of shape {shape:?}"))?;
        let offset = u64::from_le_bytes(self.bytes()?);
        Ok((shape, kind, offset, len))
    }
}
