//! Rows of a GGUF tensor in f32: plain floats here, quantised blocks by candle.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use half::{bf16, f16};

use super::header::{Gguf, TYPES, TensorInfo};
use crate::model::{Error, parts::widen};

/// Decodes the rows `range` of `tensor` (rows of `cols`) into `out`.
pub(super) fn decode(
    gguf: &Gguf,
    name: &str,
    tensor: &TensorInfo,
    cols: usize,
    range: Range<usize>,
    out: &mut [f32],
) -> Result<(), Error> {
    let Some(&(kind, dtype, block, size)) = TYPES.iter().find(|t| t.0 == tensor.kind) else {
        return Err(gguf.unsupported(format!("ggml tensor type {}", tensor.kind)));
    };
    let row = cols / block * size;
    let data = &tensor.data[range.start * row..range.end * row];
    match kind {
        0 => widen(data, out, f32::from_le_bytes),
        1 => widen(data, out, |b| f16::from_le_bytes(b).to_f32()),
        30 => widen(data, out, |b| bf16::from_le_bytes(b).to_f32()),
        kind => {
            return quantised(kind, data, cols, out).map_err(|problem| Error::Decode {
                path: gguf.path.clone(),
                tensor: name.into(),
                dtype,
                problem,
            });
        }
    }
    Ok(())
}

fn quantised(kind: u32, data: &[u8], cols: usize, out: &mut [f32]) -> Result<(), String> {
    let dtype = match kind {
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        15 => GgmlDType::Q8K,
        other => return Err(format!("type {other}")),
    };
    let decode = || -> candle_core::Result<Vec<f32>> {
        let storage = QStorage::from_data(Cow::Borrowed(data), &Device::Cpu, dtype)?;
        let tensor = QTensor::new(storage, (out.len() / cols, cols))?;
        tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
    };
    // Lengths and alignment are checked by the header; a panic in candle would be a bug of ours or
    // its own, and still must not take the process down.
    let values = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode))
        .map_err(|_| "the decoder panicked".to_string())?
        .map_err(|e| e.to_string())?;
    if values.len() != out.len() {
        return Err(format!("{} values for {}", values.len(), out.len()));
    }
    out.copy_from_slice(&values);
    Ok(())
}
