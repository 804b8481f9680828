//! A directory's safetensors: one file, or shards and their index.

use std::path::Path;

use dayrun::model::Error;
use dayrun::model::hub::shards::Shards;
use safetensors::tensor::TensorView;

use super::common::Rng;
use super::{Budget, check_message, for_each_input, in_memory, json, mutate};

/// A tensor's entry takes 50 bytes of a header at least, and some hundred in the tables made of it.
const BUDGET: Budget = Budget { fixed: 32 << 10, per_byte: 100 };

const TYPES: [(&str, u64); 9] = [
    ("F32", 4),
    ("BF16", 2),
    ("F16", 2),
    ("U8", 1),
    ("I8", 1),
    ("I64", 8),
    ("F64", 8),
    ("BOOL", 1),
    ("F8_E4M3", 1),
];

/// A file's bytes: the header's length, the header, the data.
fn file(rng: &mut Rng, names: &[&str]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut end = 0;
    if json::one_in(rng, 2) {
        let value = json::odd(rng);
        entries.push(("__metadata__", json::object(rng, vec![("format", value)], 2)));
    }
    for name in names {
        let (dtype, size) = TYPES[rng.below(TYPES.len())];
        let mut shape: Vec<u64> = (0..rng.below(4)).map(|_| rng.below(5) as u64).collect();
        let (start, len) = (end, shape.iter().product::<u64>() * size);
        end += len;
        let mut offsets = [start, end];
        if json::one_in(rng, 60) {
            let place = rng.below(2);
            offsets[place] = mutate::odd_u64(rng, offsets[place]);
        }
        if json::one_in(rng, 60) {
            shape.push(mutate::odd_u64(rng, 2));
        }
        let texts = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>();
        let fields = vec![
            ("dtype", json::text(rng, dtype)),
            ("shape", json::list(rng, &texts(&shape))),
            ("data_offsets", json::list(rng, &texts(&offsets))),
        ];
        entries.push((*name, json::object(rng, fields, 1)));
    }
    let mut header = json::object(rng, entries, 1).into_bytes();
    // The format lets a writer fill up with spaces; what else stands there is refused.
    let padding = header.len().next_multiple_of(8) - header.len();
    header.extend([b" ", b" ", b" ", b"\0"][rng.below(4)].repeat(padding));
    let mut len = header.len() as u64;
    if json::one_in(rng, 40) {
        len = mutate::odd_u64(rng, len);
    }
    let mut out = len.to_le_bytes().to_vec();
    out.extend(header);
    out.extend((0..end).map(|_| rng.below(256) as u8));
    if json::one_in(rng, 4) {
        mutate::bytes(rng, &mut out);
    }
    out
}

const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

/// Writes a directory's files and gives their length together.
fn directory(rng: &mut Rng, dir: &Path) -> usize {
    let put = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).expect("writes");
    let mut names = vec!["model.norm.weight", "b", "model.layers.0.mlp.up_proj.weight", "é", "\n"];
    names.truncate(1 + rng.below(5));
    let sharded = json::one_in(rng, 3) && names.len() > 1;
    if !sharded {
        let bytes = file(rng, &names);
        put("model.safetensors", &bytes);
        return bytes.len();
    }
    let _ = std::fs::remove_file(dir.join("model.safetensors"));
    let at = 1 + rng.below(names.len() - 1);
    let mut len = 0;
    let mut entries = Vec::new();
    for (shard, mut part) in SHARDS.into_iter().zip([names[..at].to_vec(), names[at..].to_vec()]) {
        for name in &part {
            let file = match rng.below(80) {
                0 => "../model.safetensors",
                1 => "absent.safetensors",
                2 => SHARDS[0],
                _ => shard,
            };
            entries.push((*name, json::text(rng, file)));
        }
        if json::one_in(rng, 40) {
            part.push(names[0]);
        }
        let bytes = file(rng, &part);
        put(shard, &bytes);
        len += bytes.len();
    }
    let weight_map = json::object(rng, entries, 0);
    let metadata = json::value(rng, 2);
    let index = json::object(rng, vec![("metadata", metadata), ("weight_map", weight_map)], 1);
    let mut index = index.into_bytes();
    if json::one_in(rng, 6) {
        mutate::bytes(rng, &mut index);
    }
    put("model.safetensors.index.json", &index);
    len + index.len()
}

/// Tensors lie in their files, none on another.
fn check_places(shards: &Shards) {
    let mut places = Vec::new();
    for name in shards.names() {
        let data = &shards.get(name).expect("is named").data;
        let (start, end) = (data.as_ptr() as usize, data.as_ptr() as usize + data.len());
        let inside = shards.files.iter().any(|(path, bytes)| {
            let file = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
            path == shards.path(name) && file.start <= start && end <= file.end
        });
        assert!(inside, "tensor `{name}` leaves its file");
        if start < end {
            places.push((start, end, name));
        }
    }
    places.sort();
    for pair in places.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "tensors `{}` and `{}` overlap", pair[0].2, pair[1].2);
    }
}

/// All tensors in one file of another directory.
fn write(shards: &Shards, dir: &Path) {
    let views: Vec<(&str, TensorView)> = shards
        .names()
        .map(|name| {
            let raw = shards.get(name).expect("is named");
            let view = TensorView::new(raw.dtype, raw.shape.clone(), &raw.data);
            (name, view.expect("its length fits its shape"))
        })
        .collect();
    let bytes = safetensors::serialize(views, None).expect("serialises");
    std::fs::write(dir.join("model.safetensors"), bytes).expect("writes");
}

#[test]
fn directories_are_refused_or_read_back() {
    let (dir, another) = (in_memory(), in_memory());
    let whole = dir.path().display().to_string();
    for_each_input("safetensors", 3000, |rng| {
        let len = directory(rng, dir.path());
        match BUDGET.hold(len, || Shards::open(dir.path())) {
            Err(error) => {
                assert!(!matches!(error, Error::NoWeights { .. }));
                check_message(&error.to_string(), len, &[&whole]);
                false
            }
            Ok(shards) => {
                check_places(&shards);
                write(&shards, another.path());
                let again = Shards::open(another.path()).expect("reads again");
                assert!(shards.names().eq(again.names()));
                for name in shards.names() {
                    let (a, b) = (shards.get(name).unwrap(), again.get(name).unwrap());
                    assert_eq!((a.dtype, &a.shape), (b.dtype, &b.shape), "tensor `{name}`");
                    assert!(a.data[..] == b.data[..], "tensor `{name}`");
                }
                true
            }
        }
    });
}
