//! bitsandbytes' serialised 4-bit weights: the companion tensors of one linear, read as they are.
//!
//! Beside the packed `P.weight` lie `absmax` (f32, or u8 under double quantisation), `quant_map`,
//! `nested_absmax` and `nested_quant_map`, and `quant_state.bitsandbytes__nf4`, the bytes of a JSON
//! object. The packed bytes may be labelled with another dtype (`quant_storage`, which FSDP
//! checkpoints use); they are the same bytes. The shape in the state says what they decode to, whether
//! the packed tensor is `[bytes, 1]` or, from callers of old, `[1, bytes]`; so does bitsandbytes'
//! matmul_4bit. The nested map is taken from the file, not assumed.

use std::sync::Arc;

use safetensors::Dtype;
use serde::Deserialize;

use super::error::Error;
use super::nf4::{Absmax, BLOCK, CODEBOOK, NESTED_BLOCK, Nf4Matrix};
use crate::device::bytes::Bytes;

/// A tensor as it lies in a safetensors file.
#[derive(Clone, Debug)]
pub struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Bytes,
}

/// Names of the companions, appended to `P.weight.`.
pub const COMPANIONS: [&str; 5] = ["absmax", "quant_map", "nested_absmax", "nested_quant_map", NF4];

/// Names of the states of 4-bit weights, of which the second kind is refused.
pub const STATES: [&str; 2] = [NF4, FP4];

const NF4: &str = "quant_state.bitsandbytes__nf4";
const FP4: &str = "quant_state.bitsandbytes__fp4";

#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    shape: Vec<usize>,
    /// What bitsandbytes decodes to; here the engine's own type.
    dtype: Option<String>,
    nested_blocksize: Option<usize>,
    nested_dtype: Option<String>,
    nested_offset: Option<f64>,
}

/// The types that a state can name.
const DTYPES: [&str; 3] = ["bfloat16", "float16", "float32"];

/// Reads one linear of `rows x cols` from its packed weight and its companions, which `companion`
/// finds by suffix (`absmax`, ...).
///
/// Errors: a companion that is missing or of the wrong type or size; anything but NF4 in blocks of
/// 64, nested in blocks of 256; a codebook other than NF4's; a scale that is not finite.
pub fn read(
    rows: usize,
    cols: usize,
    packed: &RawTensor,
    companion: impl Fn(&str) -> Option<RawTensor>,
) -> Result<Nf4Matrix, Error> {
    let unsupported = |key, found, supported| Error::Unsupported { key, found, supported };
    let Some(state) = companion(NF4) else {
        return Err(match companion(FP4) {
            Some(_) => unsupported("quant_type", "fp4".into(), "nf4"),
            None => Error::Missing { suffix: NF4 },
        });
    };
    let state: State =
        serde_json::from_slice(&state.data).map_err(|source| Error::StateJson { source })?;
    if state.quant_type != "nf4" {
        return Err(unsupported("quant_type", state.quant_type, "nf4"));
    }
    if state.blocksize != BLOCK {
        return Err(unsupported("blocksize", state.blocksize.to_string(), "64"));
    }
    if let Some(dtype) = state.dtype.as_ref().filter(|dtype| !DTYPES.contains(&dtype.as_str())) {
        return Err(unsupported("dtype", dtype.clone(), "bfloat16, float16 and float32"));
    }
    if state.shape == [cols, rows] && rows != cols {
        let found = format!("{:?}: the transpose was quantised", state.shape);
        return Err(unsupported("shape", found, "[out_features, in_features]"));
    }
    if state.shape != [rows, cols] {
        return Err(Error::Companion {
            suffix: NF4,
            expected: format!("shape [{rows}, {cols}]"),
            found: format!("shape {:?}", state.shape),
        });
    }
    let map = floats("quant_map", companion("quant_map"), CODEBOOK.len())?;
    if let Some(index) = (0..16).find(|&i| map[i].to_bits() != CODEBOOK[i].to_bits()) {
        return Err(Error::Codebook { index, found: map[index], expected: CODEBOOK[index] });
    }
    if packed.shape.iter().filter(|len| **len != 1).count() > 1 {
        let found = format!("{:?}", packed.shape);
        return Err(unsupported("the packed weight's shape", found, "[bytes, 1]"));
    }
    let expected = (rows * cols).div_ceil(2);
    if packed.data.len() != expected {
        return Err(Error::PackedLength { rows, cols, expected, found: packed.data.len() });
    }
    let blocks = (rows * cols).div_ceil(BLOCK);
    let absmax = match companion("nested_absmax") {
        None => Absmax::Plain(finite("absmax", companion("absmax"), blocks)?),
        nested => read_nested(&state, blocks, nested, companion)?,
    };
    // Finite parts can still have an infinite product.
    match (0..blocks).find(|&b| !absmax.get(b).is_finite()) {
        Some(index) => Err(Error::Scale { suffix: "absmax", index, value: absmax.get(index) }),
        None => Ok(Nf4Matrix { rows, cols, codes: packed.data.clone(), absmax }),
    }
}

fn read_nested(
    state: &State,
    blocks: usize,
    nested_absmax: Option<RawTensor>,
    companion: impl Fn(&str) -> Option<RawTensor>,
) -> Result<Absmax, Error> {
    if state.nested_blocksize != Some(NESTED_BLOCK) {
        let found = state.nested_blocksize.map_or("absent".to_string(), |n| n.to_string());
        return Err(Error::Unsupported { key: "nested_blocksize", found, supported: "256" });
    }
    if let Some(dtype) = state.nested_dtype.as_ref().filter(|dtype| *dtype != "float32") {
        let found = dtype.clone();
        return Err(Error::Unsupported { key: "nested_dtype", found, supported: "float32" });
    }
    let offset = state.nested_offset.unwrap_or(f64::NAN) as f32;
    if !offset.is_finite() {
        return Err(Error::Scale { suffix: "nested_offset", index: 0, value: offset });
    }
    let codes = companion("absmax").ok_or(Error::Missing { suffix: "absmax" })?;
    if codes.dtype != Dtype::U8 || codes.data.len() != blocks {
        return Err(mismatch("absmax", format!("{blocks} U8 values"), &codes));
    }
    Ok(Absmax::Nested {
        codes: codes.data,
        absmax2: finite("nested_absmax", nested_absmax, blocks.div_ceil(NESTED_BLOCK))?,
        offset,
        map: finite("nested_quant_map", companion("nested_quant_map"), 256)?,
    })
}

fn finite(suffix: &'static str, raw: Option<RawTensor>, len: usize) -> Result<Arc<[f32]>, Error> {
    let values = floats(suffix, raw, len)?;
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::Scale { suffix, index, value: values[index] }),
        None => Ok(values.into()),
    }
}

/// A companion of `len` f32 values.
fn floats(suffix: &'static str, raw: Option<RawTensor>, len: usize) -> Result<Vec<f32>, Error> {
    let raw = raw.ok_or(Error::Missing { suffix })?;
    if raw.dtype != Dtype::F32 || raw.data.len() != len * 4 {
        return Err(mismatch(suffix, format!("{len} F32 values"), &raw));
    }
    let (chunks, _) = raw.data.as_chunks::<4>();
    Ok(chunks.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

fn mismatch(suffix: &'static str, expected: String, raw: &RawTensor) -> Error {
    let found = format!("dtype {:?}, shape {:?}", raw.dtype, raw.shape);
    Error::Companion { suffix, expected, found }
}
