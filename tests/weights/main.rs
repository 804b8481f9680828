//! Quantising, and loading base models from every format, good files and hostile ones.

mod bnb;
mod cache;
#[cfg(feature = "gguf")]
mod gguf;
#[cfg(feature = "gguf")]
mod hostile;
mod hub;
mod quant;
mod writer;

use std::path::Path;

use dayrun::model::weights::{Dense, Matrix, Weights};
use dayrun::model::{Error, LoadOptions, load};
use dayrun::progress::quiet;
use dayrun::quant::{Absmax, Nf4Matrix};

/// Loads without a cache.
fn load_plain(source: &Path) -> Result<Weights, Error> {
    load(source, &LoadOptions::default(), &quiet)
}

/// The message of the error that loading gives, which must name every one of `parts`.
#[track_caller]
fn refused(source: &Path, parts: &[&str]) {
    let Err(error) = load_plain(source) else { panic!("loaded, expected an error on {parts:?}") };
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// Everything of a weight as bytes.
fn weight_bytes(matrix: &Matrix) -> Vec<u8> {
    let (rows, cols) = matrix.shape();
    let dense =
        |kind: &str, data: &[u8]| [format!("{kind} {rows}x{cols} ").as_bytes(), data].concat();
    match matrix {
        Matrix::Nf4(matrix) => matrix_bytes(matrix),
        Matrix::Bf16(matrix) => dense("bf16", &matrix.data),
        Matrix::F32(matrix) => dense("f32", &matrix.data),
    }
}

/// Everything of an NF4 matrix as bytes.
fn matrix_bytes(matrix: &Nf4Matrix) -> Vec<u8> {
    let mut bytes = format!("{}x{} ", matrix.rows, matrix.cols).into_bytes();
    bytes.extend_from_slice(&matrix.codes);
    match &matrix.absmax {
        Absmax::Plain(absmax) => bytes.extend(absmax.iter().flat_map(|a| a.to_le_bytes())),
        Absmax::Nested { codes, absmax2, offset, map } => {
            bytes.extend_from_slice(codes);
            let floats = absmax2.iter().chain([offset]).chain(map.iter());
            bytes.extend(floats.flat_map(|a| a.to_le_bytes()));
        }
    }
    bytes
}

/// Fails unless the two models are the same in every bit, naming the first part that differs.
#[track_caller]
fn assert_same(a: &Weights, b: &Weights) {
    assert_eq!(a.config, b.config);
    let dense = |name: &str, a: &Dense, b: &Dense| {
        assert_eq!((a.rows, a.cols), (b.rows, b.cols), "{name}");
        assert!(
            a.as_slice().iter().map(|x| x.to_bits()).eq(b.as_slice().iter().map(|x| x.to_bits())),
            "{name}"
        );
    };
    dense("embed_tokens", &a.embed_tokens, &b.embed_tokens);
    dense("norm", &a.norm, &b.norm);
    assert_eq!(a.lm_head.is_some(), b.lm_head.is_some());
    dense("head", a.head(), b.head());
    assert_eq!(a.layers.len(), b.layers.len());
    for (i, (a, b)) in a.layers.iter().zip(&b.layers).enumerate() {
        dense(&format!("{i} input_layernorm"), &a.input_layernorm, &b.input_layernorm);
        let name = format!("{i} post_attention_layernorm");
        dense(&name, &a.post_attention_layernorm, &b.post_attention_layernorm);
        for (j, (a, b)) in a.linears.iter().zip(&b.linears).enumerate() {
            assert!(weight_bytes(a) == weight_bytes(b), "layer {i} linear {j}");
        }
    }
}

/// Not part of the suite: `DAYRUN_MODEL=PATH cargo test --test weights -- --ignored --nocapture`.
#[test]
#[ignore = "needs a model"]
fn time_a_load() {
    let path = std::env::var("DAYRUN_MODEL").expect("DAYRUN_MODEL");
    let cache = tempfile::tempdir().expect("a directory");
    let cached = LoadOptions { cache_dir: Some(cache.path().into()), ..LoadOptions::default() };
    let plain = LoadOptions::default();
    for (name, options) in
        [("no cache", &plain), ("cold", &cached), ("warm", &cached), ("warm", &cached)]
    {
        let start = std::time::Instant::now();
        let weights = load(Path::new(&path), options, &quiet).expect("loads");
        println!("{name}: {:?} {}", start.elapsed(), weights.identity());
    }
}
