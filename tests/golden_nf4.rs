//! NF4 against bitsandbytes: tests/golden/nf4.safetensors, made by scripts/golden.py.

mod common;

use common::assert_same_bits;
use common::golden::{self, Tensors};
use dayrun::device::bytes::Bytes;
use dayrun::model::config::Linear;
use dayrun::model::{LoadOptions, load};
use dayrun::progress::quiet;
use dayrun::quant::bnb::{self, RawTensor};
use dayrun::quant::{Absmax, DYNAMIC_MAP, Nf4Matrix, double_quantise, nf4, quantise};
use half::bf16;

/// Matrices in the file beside `nested`.
const CASES: [&str; 8] =
    ["random", "outliers", "zeros", "thresholds", "straddle", "tail", "odd", "bf16"];

struct Golden(Tensors);

impl Golden {
    fn open() -> Self {
        Golden(Tensors::open("nf4.safetensors"))
    }

    fn find(&self, name: &str) -> Option<RawTensor> {
        let (dtype, shape, data) = self.0.find(name)?;
        Some(RawTensor { dtype, shape, data: Bytes::from(data) })
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.0.raw(name).2
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        self.0.floats(name)
    }

    fn shape(&self, name: &str) -> (usize, usize) {
        match self.0.raw(name).1[..] {
            [rows, cols] => (rows, cols),
            ref shape => panic!("{name}: {shape:?}"),
        }
    }
}

fn values(matrix: &Nf4Matrix) -> Vec<f32> {
    (0..matrix.rows * matrix.cols).map(|i| matrix.value(i)).collect()
}

fn plain(absmax: &Absmax) -> &[f32] {
    match absmax {
        Absmax::Plain(absmax) => absmax,
        Absmax::Nested { .. } => panic!("nested"),
    }
}

#[test]
fn the_tables_are_bitsandbytes_tables() {
    let golden = Golden::open();
    assert_same_bits("codebook", &nf4::CODEBOOK, &golden.floats("codebook"));
    assert_same_bits("dynamic map", &DYNAMIC_MAP, &golden.floats("dynamic_map"));
}

/// Codes and scales by the CUDA rule, and bitsandbytes' own except in blocks of zeros, where its CPU
/// build writes code 7 and its CUDA kernels code 0.
#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    let golden = Golden::open();
    for case in CASES {
        let (rows, cols) = golden.shape(&format!("{case}.x"));
        let got = quantise(rows, cols, &golden.floats(&format!("{case}.x"))).unwrap();
        assert_same_bits(case, &got.codes, &golden.bytes(&format!("{case}.rule_codes")));
        let rule = golden.floats(&format!("{case}.rule_absmax"));
        assert_same_bits(case, plain(&got.absmax), &rule);
        let own = Nf4Matrix {
            codes: Bytes::from(golden.bytes(&format!("{case}.codes"))),
            absmax: Absmax::Plain(golden.floats(&format!("{case}.absmax")).into()),
            ..got
        };
        let mut zeros = 0;
        for i in 0..rows * cols {
            if rule[i / nf4::BLOCK] == 0.0 {
                zeros += 1;
                assert_eq!((own.code(i), got.code(i)), (7, 0), "{case}: element {i}");
            } else {
                assert_eq!(own.code(i), got.code(i), "{case}: element {i}");
            }
        }
        assert_eq!(zeros, if case == "zeros" { 256 } else { 0 }, "{case}");
    }
}

/// f32 to the bit, bf16 by one rounding of it, the sign of a zero included.
#[test]
fn decoded_values_are_those_of_bitsandbytes() {
    let golden = Golden::open();
    for case in CASES {
        let (rows, cols) = golden.shape(&format!("{case}.x"));
        let matrix = Nf4Matrix {
            rows,
            cols,
            codes: Bytes::from(golden.bytes(&format!("{case}.codes"))),
            absmax: Absmax::Plain(golden.floats(&format!("{case}.absmax")).into()),
        };
        same_values(&golden, case, &matrix);
    }
}

fn same_values(golden: &Golden, case: &str, matrix: &Nf4Matrix) {
    let got = values(matrix);
    assert_same_bits(case, &got, &golden.floats(&format!("{case}.f32")));
    let rounded: Vec<f32> = got.iter().map(|&x| bf16::from_f32(x).to_f32()).collect();
    assert_same_bits(case, &rounded, &golden.floats(&format!("{case}.bf16")));
}

/// A doubly quantised weight as bitsandbytes serialises it gives the values bitsandbytes gives.
#[test]
fn a_serialised_weight_decodes_to_the_same_bits() {
    let golden = Golden::open();
    let (rows, cols) = golden.shape("nested.x");
    let packed = golden.find("nested.weight").unwrap();
    let read = |drop: &str| {
        bnb::read(rows, cols, &packed, |suffix| {
            (suffix != drop).then(|| golden.find(&format!("nested.weight.{suffix}"))).flatten()
        })
    };
    let matrix = read("").unwrap();
    assert!(matches!(matrix.absmax, Absmax::Nested { .. }));
    same_values(&golden, "nested", &matrix);
    assert!(read("nested_quant_map").is_err());
}

/// The nested level, by the CUDA rule: its codes are computed from the rule in scripts/nf4_rule.py,
/// because bitsandbytes' CPU build takes them from another table.
#[test]
fn double_quantisation_follows_the_cuda_rule() {
    let golden = Golden::open();
    let (rows, cols) = golden.shape("nested.x");
    let first = quantise(rows, cols, &golden.floats("nested.x")).unwrap();
    assert_same_bits("codes", &first.codes, &golden.bytes("nested.rule_codes"));
    assert_same_bits("absmax", plain(&first.absmax), &golden.floats("nested.rule_absmax"));
    let Absmax::Nested { codes, absmax2, offset, map } = double_quantise(first).absmax else {
        panic!("not nested")
    };
    assert_same_bits("offset", &[offset], &golden.floats("nested.rule_offset"));
    assert_same_bits("absmax2", &absmax2, &golden.floats("nested.rule_nested_absmax"));
    assert_same_bits("nested codes", &codes, &golden.bytes("nested.rule_nested_codes"));
    assert_same_bits("map", &map, &DYNAMIC_MAP);
}

/// The goldens would notice: a code one off, a scale one ulp off, two nibbles swapped.
#[test]
fn planted_mistakes_are_seen() {
    let golden = Golden::open();
    let (rows, cols) = golden.shape("random.x");
    let want = golden.floats("random.f32");
    let codes = golden.bytes("random.codes");
    let absmax = golden.floats("random.absmax");
    let decode = |codes: Vec<u8>, absmax: Vec<f32>| {
        let absmax = Absmax::Plain(absmax.into());
        values(&Nf4Matrix { rows, cols, codes: Bytes::from(codes), absmax })
    };
    assert!(decode(codes.clone(), absmax.clone()) == want);
    let swapped = codes.iter().map(|b| b.rotate_left(4)).collect();
    assert!(decode(swapped, absmax.clone()) != want);
    let mut one_off = codes.clone();
    one_off[7] ^= 1;
    assert!(decode(one_off, absmax.clone()) != want);
    let mut ulp = absmax;
    ulp[3] = ulp[3].next_up();
    assert!(decode(codes, ulp) != want);
}

fn in_bf16(matrix: &Nf4Matrix) -> Vec<bf16> {
    matrix.to_f32().into_iter().map(bf16::from_f32).collect()
}

/// Directories as transformers and bitsandbytes write them (scripts/golden_bnb.py): whatever the scales and
/// whatever dtype the bytes are labelled with, each weight decodes to bitsandbytes' own bits.
#[test]
fn directories_decode_to_bitsandbytes_bits() {
    for name in ["nested", "plain", "wide", "dynamic"] {
        let directory = golden::path("bnb").join(name);
        let weights = load(&directory, &LoadOptions::default(), &quiet).unwrap();
        let golden = Tensors::open(&format!("bnb/{name}.safetensors"));
        for linear in Linear::ALL {
            let key = format!("{}.weight", linear.path(0));
            // Modules that were left in 16 bits are not in the golden file.
            let Some(matrix) = weights.layers[0].linear(linear).as_nf4() else {
                assert!(name == "dynamic" && golden.find(&key).is_none(), "{name} {key}");
                continue;
            };
            let want: Vec<bf16> = golden.floats(&key).into_iter().map(bf16::from_f32).collect();
            assert_same_bits(&format!("{name} {key}"), &in_bf16(matrix), &want);
            // What a reader could get wrong is seen.
            let swapped: Vec<u8> = matrix.codes.iter().map(|byte| byte.rotate_left(4)).collect();
            let swapped = Nf4Matrix { codes: Bytes::from(swapped), ..matrix.clone() };
            assert_ne!(in_bf16(&swapped), want);
            let mut without = matrix.clone();
            if let Absmax::Nested { offset, .. } = &mut without.absmax {
                *offset = 0.0;
                assert_ne!(in_bf16(&without), want);
            }
        }
    }
}
