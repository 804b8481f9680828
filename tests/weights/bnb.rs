//! bitsandbytes' serialised weights: read as they are, or refused by name.

use dayrun::device::bytes::Bytes;
use dayrun::quant::bnb::{RawTensor, read};
use dayrun::quant::nf4::CODEBOOK;
use dayrun::quant::{Absmax, Error, Nf4Matrix, double_quantise, quantise};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::matrix_bytes;
use super::writer::Stored;

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The tensors that bitsandbytes writes for `matrix` under `name`.
pub fn serialise(name: &str, matrix: &Nf4Matrix) -> Vec<Stored> {
    let bytes = matrix.codes.len();
    let mut state = json!({
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [matrix.rows, matrix.cols],
    });
    let mut out: Vec<Stored> = vec![
        (name.into(), Dtype::U8, vec![bytes, 1], matrix.codes.to_vec()),
        (format!("{name}.quant_map"), Dtype::F32, vec![16], floats(&CODEBOOK)),
    ];
    let mut add = |suffix: &str, dtype, len, data| {
        out.push((format!("{name}.{suffix}"), dtype, vec![len], data));
    };
    match &matrix.absmax {
        Absmax::Plain(absmax) => add("absmax", Dtype::F32, absmax.len(), floats(absmax)),
        Absmax::Nested { codes, absmax2, offset, map } => {
            add("absmax", Dtype::U8, codes.len(), codes.to_vec());
            add("nested_absmax", Dtype::F32, absmax2.len(), floats(absmax2));
            add("nested_quant_map", Dtype::F32, 256, floats(map));
            state["nested_blocksize"] = json!(256);
            state["nested_dtype"] = json!("float32");
            state["nested_offset"] = json!(*offset as f64);
        }
    }
    let state = state.to_string().into_bytes();
    add("quant_state.bitsandbytes__nf4", Dtype::U8, state.len(), state);
    out
}

const ROWS: usize = 70;
const COLS: usize = 300;

fn matrix(nested: bool) -> Nf4Matrix {
    let values: Vec<f32> = (0..ROWS * COLS).map(|i| ((i * 31) % 101) as f32 * 0.013).collect();
    let matrix = quantise(ROWS, COLS, &values).expect("quantises");
    if nested { double_quantise(matrix) } else { matrix }
}

fn parse(tensors: &[Stored]) -> Result<Nf4Matrix, Error> {
    let find = |name: &str| {
        let (_, dtype, shape, data) = tensors.iter().find(|t| t.0 == name)?;
        Some(RawTensor { dtype: *dtype, shape: shape.clone(), data: Bytes::from(data.clone()) })
    };
    read(ROWS, COLS, &find("w").expect("w"), |suffix| find(&format!("w.{suffix}")))
}

fn tensor<'a>(tensors: &'a mut [Stored], suffix: &str) -> &'a mut Stored {
    tensors.iter_mut().find(|t| t.0 == format!("w{suffix}")).expect("the tensor")
}

fn edit_state(tensors: &mut [Stored], edit: impl Fn(&mut Value)) {
    let stored = tensor(tensors, ".quant_state.bitsandbytes__nf4");
    let mut state = serde_json::from_slice(&stored.3).expect("JSON");
    edit(&mut state);
    stored.3 = state.to_string().into_bytes();
}

#[test]
fn bytes_are_taken_as_they_are() {
    for nested in [false, true] {
        let matrix = matrix(nested);
        let mut tensors = serialise("w", &matrix);
        assert!(matrix_bytes(&parse(&tensors).expect("reads")) == matrix_bytes(&matrix));
        // quant_storage: the same bytes under another dtype.
        for (dtype, size) in [(Dtype::BF16, 2), (Dtype::F16, 2), (Dtype::F32, 4)] {
            let weight = tensor(&mut tensors, "");
            (weight.1, weight.2) = (dtype, vec![matrix.codes.len() / size, 1]);
            assert!(matrix_bytes(&parse(&tensors).expect("reads")) == matrix_bytes(&matrix));
        }
        // A view of old callers: the state's shape tells what the bytes are.
        tensor(&mut tensors, "").2.reverse();
        assert!(matrix_bytes(&parse(&tensors).expect("reads")) == matrix_bytes(&matrix));
        // What bitsandbytes would decode to is its own affair.
        edit_state(&mut tensors, |state| state["dtype"] = json!("float16"));
        assert!(matrix_bytes(&parse(&tensors).expect("reads")) == matrix_bytes(&matrix));
    }
}

#[test]
fn decoding_is_one_f32_product_of_code_and_scale() {
    let matrix = parse(&serialise("w", &matrix(true))).expect("reads");
    let Absmax::Nested { codes, absmax2, offset, map } = &matrix.absmax else { panic!() };
    let decoded = matrix.to_f32();
    for (i, &value) in decoded.iter().enumerate() {
        let byte = matrix.codes[i / 2];
        let code = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
        let scale = map[codes[i / 64] as usize] * absmax2[i / 64 / 256] + offset;
        assert_eq!(value.to_bits(), (CODEBOOK[code as usize] * scale).to_bits(), "element {i}");
    }
    let mut part = vec![0.0; 100];
    matrix.decode_f32(1001..1101, &mut part);
    assert_eq!(part, decoded[1001..1101]);
}

#[track_caller]
fn refused(tensors: &[Stored], part: &str) {
    let message = parse(tensors).expect_err("refused").to_string();
    assert!(message.contains(part), "`{message}` does not say `{part}`");
}

#[test]
fn what_is_not_supported_is_named() {
    let all = serialise("w", &matrix(true));
    let with = |edit: &dyn Fn(&mut Vec<Stored>)| {
        let mut tensors = all.clone();
        edit(&mut tensors);
        tensors
    };
    let state = |key: &'static str, value: Value| {
        with(&|t| edit_state(t, |state| state[key] = value.clone()))
    };
    refused(&state("quant_type", json!("fp4")), "quant_type is fp4");
    refused(&state("blocksize", json!(128)), "blocksize is 128");
    refused(&state("nested_blocksize", json!(512)), "nested_blocksize is 512");
    refused(&state("nested_blocksize", Value::Null), "nested_blocksize is absent");
    refused(&state("nested_offset", Value::Null), "nested_offset");
    refused(&state("nested_dtype", json!("float16")), "nested_dtype is float16");
    refused(&state("dtype", json!("float8_e4m3fn")), "dtype is float8_e4m3fn");
    refused(&state("shape", json!([COLS, ROWS])), "[300, 70]: the transpose was quantised");
    refused(&state("shape", json!([ROWS, COLS + 1])), "shape [70, 301]");
    refused(
        &with(&|t| {
            tensor(t, ".quant_state.bitsandbytes__nf4").0 = "w.quant_state.bitsandbytes__fp4".into()
        }),
        "quant_type is fp4",
    );
    refused(&with(&|t| tensor(t, ".quant_map").3[4] ^= 1), "`quant_map` entry 1");
    refused(&with(&|t| tensor(t, "").2 = vec![2, ROWS * COLS / 4]), "packed weight's shape");
    refused(&with(&|t| tensor(t, "").3.truncate(9)), "9 bytes of packed codes");
    refused(&with(&|t| tensor(t, ".absmax").3.truncate(9)), "`absmax`");
    refused(&with(&|t| tensor(t, ".absmax").1 = Dtype::I8), "`absmax` has dtype I8");
    refused(
        &with(&|t| tensor(t, ".nested_absmax").3[..4].copy_from_slice(&f32::NAN.to_le_bytes())),
        "scale 0 of `nested_absmax` is NaN",
    );
    refused(&with(&|t| tensor(t, ".quant_state.bitsandbytes__nf4").3.truncate(9)), "JSON");
    for suffix in [".absmax", ".quant_map", ".nested_quant_map", ".quant_state.bitsandbytes__nf4"] {
        let missing = with(&|t| t.retain(|t| t.0 != format!("w{suffix}")));
        refused(&missing, &format!("`{}` is missing", &suffix[1..]));
    }
    // Without the nested scales the 8-bit codes are no plain scales.
    refused(&with(&|t| t.retain(|t| t.0 != "w.nested_absmax")), "`absmax` has dtype U8");
}

#[test]
fn a_scale_that_overflows_is_named() {
    let mut tensors = serialise("w", &matrix(true));
    edit_state(&mut tensors, |state| state["nested_offset"] = json!(f32::MAX as f64));
    let big = f32::MAX.to_le_bytes();
    tensor(&mut tensors, ".nested_absmax").3[..4].copy_from_slice(&big);
    // Code 127 is zero, 255 is one.
    tensor(&mut tensors, ".absmax").3[..8]
        .copy_from_slice(&[127, 127, 127, 127, 127, 127, 127, 255]);
    refused(&tensors, "scale 7 of `absmax` is inf");
}
