//! GGUF files.

use std::path::Path;

use dayrun::device::bytes::Bytes;
use dayrun::model::Error;
use dayrun::model::gguf::{Gguf, TensorInfo, Value, header::TYPES};

use super::common::Rng;
use super::{Budget, check_message, for_each_input, json, mutate};

/// A metadata entry takes 13 bytes of the file at least, and some hundred in a table that doubles.
const BUDGET: Budget = Budget { fixed: 8 << 10, per_byte: 48 };

const FILE: &str = "model-7.gguf";

/// A file's parts; a tensor is its name, dimensions (fastest first), type, offset and length.
struct File {
    version: u32,
    metadata: Vec<(String, u32, Vec<u8>)>,
    tensors: Vec<(String, Vec<u64>, u32, u64, usize)>,
    alignment: usize,
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The bytes of a value of any of the types, with its type's number.
fn scalar(rng: &mut Rng, kind: u32) -> Vec<u8> {
    match kind {
        7 => vec![rng.below(2) as u8],
        8 => {
            let mut out = Vec::new();
            put_text(&mut out, &mutate::odd_text(rng));
            out
        }
        kind => {
            let near = rng.below(300) as u64;
            let bytes = mutate::odd_u64(rng, near).to_le_bytes();
            let width = match kind {
                0 | 1 => 1,
                2 | 3 => 2,
                4..=6 => 4,
                _ => 8,
            };
            bytes[..width].to_vec()
        }
    }
}

fn array(rng: &mut Rng) -> Vec<u8> {
    let kind = rng.below(13) as u32;
    let count = rng.below(6);
    let mut out = kind.to_le_bytes().to_vec();
    out.extend((count as u64).to_le_bytes());
    for _ in 0..count {
        out.extend(scalar(rng, kind));
    }
    out
}

/// What a converter writes about a small model, and what else comes to mind.
fn metadata(rng: &mut Rng) -> Vec<(String, u32, Vec<u8>)> {
    let mut out = Vec::new();
    let mut architecture = Vec::new();
    put_text(&mut architecture, ["llama", "qwen2", "qwen3", "gemma"][rng.below(4)]);
    out.push(("general.architecture".to_string(), 8, architecture));
    let sizes = [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.dimension_count",
    ];
    for size in sizes {
        let value = [1u32, 2, 4, 8, 16, 0, u32::MAX][rng.below(7)];
        if !json::one_in(rng, 8) {
            out.push((format!("llama.{size}"), 4, value.to_le_bytes().to_vec()));
        }
    }
    for _ in 0..rng.below(4) {
        let kind = rng.below(13) as u32;
        let value = if kind == 9 { array(rng) } else { scalar(rng, kind) };
        out.push((format!("x.{}{}", rng.below(40), mutate::odd_text(rng)), kind, value));
    }
    out
}

fn file(rng: &mut Rng) -> File {
    let mut metadata = metadata(rng);
    let alignment = [32, 32, 32, 8, 16, 64, 4096][rng.below(7)];
    if alignment != 32 || json::one_in(rng, 4) {
        let value = (alignment as u32).to_le_bytes().to_vec();
        metadata.push(("general.alignment".into(), 4, value));
    }
    let mut tensors = Vec::new();
    let mut offset = 0;
    for i in 0..rng.below(5) {
        let name = ["token_embd.weight", "output_norm.weight", "a", "b", ""][i];
        let (kind, _, block, size) = TYPES[rng.below(TYPES.len())];
        let blocks = rng.below(3) as u64;
        let mut dims = vec![blocks * block as u64];
        dims.extend((0..rng.below(3)).map(|_| rng.below(4) as u64));
        let len = dims.iter().product::<u64>() as usize / block * size;
        tensors.push((name.to_string(), dims, kind, offset as u64, len));
        offset += len.next_multiple_of(alignment);
    }
    let mut file = File { version: 2 + rng.below(2) as u32, metadata, tensors, alignment };
    if json::one_in(rng, 3) {
        fault(rng, &mut file);
    }
    file
}

/// One thing wrong that no damaged byte would make.
fn fault(rng: &mut Rng, file: &mut File) {
    let tensors = file.tensors.len();
    match rng.below(6) {
        0 if tensors > 0 => {
            let twin = file.tensors[rng.below(tensors)].clone();
            file.tensors.push(twin);
        }
        1 if tensors > 1 => file.tensors[tensors - 1].3 = file.tensors[rng.below(tensors - 1)].3,
        2 if tensors > 0 => {
            let tensor = &mut file.tensors[rng.below(tensors)];
            tensor.3 = mutate::odd_u64(rng, tensor.3);
        }
        3 if tensors > 0 => {
            let tensor = &mut file.tensors[rng.below(tensors)];
            let dim = rng.below(tensor.1.len());
            tensor.1[dim] = mutate::odd_u64(rng, tensor.1[dim]);
        }
        4 => {
            let twin = file.metadata[rng.below(file.metadata.len())].clone();
            file.metadata.push(twin);
        }
        _ => file.version = mutate::odd_u64(rng, 3) as u32,
    }
}

impl File {
    fn bytes(&self, data: impl Fn(usize, &str) -> Vec<u8>) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            put_text(&mut out, key);
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset, _) in &self.tensors {
            put_text(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        for (i, (name, _, _, _, len)) in self.tensors.iter().enumerate() {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            let data = data(i, name);
            assert_eq!(data.len(), *len);
            out.extend(data);
        }
        out
    }
}

/// The type's number and the bytes of a value that was read.
fn encode(value: &Value) -> (u32, Vec<u8>) {
    match value {
        Value::Int(n) => match i64::try_from(*n) {
            Ok(n) => (11, n.to_le_bytes().to_vec()),
            Err(_) => (10, u64::try_from(*n).expect("64 bits").to_le_bytes().to_vec()),
        },
        Value::Float(x) => (12, x.to_le_bytes().to_vec()),
        Value::Bool(b) => (7, vec![u8::from(*b)]),
        Value::String(text) => {
            let mut out = Vec::new();
            put_text(&mut out, text);
            (8, out)
        }
        Value::Array(array) => {
            let items: Vec<Value> = array.iter().collect();
            assert_eq!(items.len(), array.len(), "an array of fewer elements than it says");
            // One type for all: what the largest needs.
            let large = items.iter().any(|v| matches!(v, Value::Int(n) if *n > i64::MAX.into()));
            let kind = if large { 10 } else { items.first().map_or(0, |v| encode(v).0) };
            let mut out = kind.to_le_bytes().to_vec();
            out.extend((items.len() as u64).to_le_bytes());
            for item in &items {
                match item {
                    Value::Int(n) if large => out.extend((*n as u64).to_le_bytes()),
                    item => out.extend(encode(item).1),
                }
            }
            (9, out)
        }
    }
}

/// A file of what was read.
fn write(gguf: &Gguf) -> Vec<u8> {
    let mut metadata: Vec<(String, u32, Vec<u8>)> = Vec::new();
    for (key, value) in &gguf.metadata {
        let (kind, bytes) = encode(value);
        metadata.push((key.clone(), kind, bytes));
    }
    let alignment = match gguf.metadata.get("general.alignment") {
        Some(Value::Int(alignment)) => *alignment as usize,
        _ => 32,
    };
    let mut tensors = Vec::new();
    let mut offset = 0;
    for (name, info) in &gguf.tensors {
        let dims = info.shape.iter().rev().map(|dim| *dim as u64).collect();
        tensors.push((name.clone(), dims, info.kind, offset as u64, info.data.len()));
        offset += info.data.len().next_multiple_of(alignment);
    }
    let file = File { version: 3, metadata, tensors, alignment };
    file.bytes(|_, name| gguf.tensors[name].data.to_vec())
}

fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => {
            a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
        }
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::String(a), Value::String(b)) => a == b,
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| same_value(&a, &b))
        }
        _ => false,
    }
}

fn same_tensor(a: &TensorInfo, b: &TensorInfo) -> bool {
    a.shape == b.shape && a.kind == b.kind && a.data[..] == b.data[..]
}

fn check_same(a: &Gguf, b: &Gguf) {
    assert_eq!(a.metadata.len(), b.metadata.len());
    for (key, value) in &a.metadata {
        let other = b.metadata.get(key).unwrap_or_else(|| panic!("`{key}` is lost"));
        assert!(same_value(value, other), "`{key}`: {value:?} became {other:?}");
    }
    assert_eq!(a.tensors.len(), b.tensors.len());
    for (name, info) in &a.tensors {
        let other = b.tensors.get(name).unwrap_or_else(|| panic!("tensor `{name}` is lost"));
        assert!(same_tensor(info, other), "tensor `{name}`: {info:?} became {other:?}");
    }
}

/// Tensors lie in the file, none on another, each of the length that its shape and type ask for.
fn check_places(gguf: &Gguf, bytes: &Bytes) {
    let begin = bytes.as_ptr() as usize;
    let mut places = Vec::new();
    for (name, info) in &gguf.tensors {
        let (_, _, block, size) = TYPES.iter().find(|t| t.0 == info.kind).expect("a known type");
        let elements: usize = info.shape.iter().product();
        assert_eq!(info.data.len(), elements / block * size, "tensor `{name}`");
        if !info.data.is_empty() {
            let start = info.data.as_ptr() as usize - begin;
            assert!(start + info.data.len() <= bytes.len(), "tensor `{name}` leaves the file");
            places.push((start, start + info.data.len(), name));
        }
    }
    places.sort();
    for pair in places.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "tensors `{}` and `{}` overlap", pair[0].2, pair[1].2);
    }
}

#[test]
fn files_are_refused_or_read_back() {
    for_each_input("gguf", 4000, |rng| {
        let seed = rng.next_u64();
        let file = file(rng);
        let mut bytes = file.bytes(|i, _| {
            let mut rng = Rng::new(seed ^ i as u64);
            (0..file.tensors[i].4).map(|_| rng.below(256) as u8).collect()
        });
        if json::one_in(rng, 3) {
            mutate::bytes(rng, &mut bytes);
        }
        let bytes = Bytes::from(bytes);
        match BUDGET.hold(bytes.len(), || Gguf::read(Path::new(FILE), &bytes)) {
            Err(error) => {
                let at = if matches!(error, Error::Gguf { .. }) { "byte " } else { "" };
                check_message(&error.to_string(), bytes.len(), &[FILE, at]);
                false
            }
            Ok(gguf) => {
                check_places(&gguf, &bytes);
                let again = Bytes::from(write(&gguf));
                check_same(&gguf, &Gguf::read(Path::new(FILE), &again).expect("reads again"));
                if let Err(error) = BUDGET.hold(bytes.len(), || gguf.config()) {
                    check_message(&error.to_string(), bytes.len(), &[FILE]);
                }
                true
            }
        }
    });
}
