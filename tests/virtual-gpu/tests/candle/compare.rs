//! How far a kernel's result may lie from candle's on the CPU, and the comparison.
//!
//! A result is off by its roundings: each is at most half a unit in the last place of the type that
//! it was rounded to, relative to the size of what was rounded. So a bound is a number of roundings
//! of both sides together, times the type's unit roundoff, times a magnitude: of the value itself,
//! or, where terms cancel, of the terms.

use candle_core::{DType, Tensor};

/// What may differ.
pub enum Bound {
    /// Nothing: bits are equal (any NaN equals any NaN).
    Exact,
    /// So many roundings of the output's type, relative to the expected value.
    Roundings(f64),
    /// So many roundings of a type, relative to these magnitudes.
    Of(f64, DType, Tensor),
}

/// Half a unit in the last place, relative: 2^-p for a significand of p bits.
pub fn unit_roundoff(dtype: DType) -> f64 {
    let bits = match dtype {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        DType::BF16 => 8,
        other => panic!("{other:?} does not round"),
    };
    2f64.powi(-bits)
}

/// The smallest number above zero: what underflows is off by no more.
fn smallest(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::from_bits(1),
        DType::F32 => f32::from_bits(1).into(),
        // Subnormal f32 results of approximations may be flushed to zero.
        DType::F16 => 2f64.powi(-24),
        DType::BF16 => 2f64.powi(-133),
        _ => 0.0,
    }
}

/// Fails, naming kernel, element and both values, if the result is not within the bound.
pub fn check(kernel: &str, found: &Tensor, expected: &Tensor, bound: Bound) {
    assert_eq!(found.dtype(), expected.dtype(), "{kernel}: dtype");
    assert_eq!(found.dims(), expected.dims(), "{kernel}: shape");
    let dtype = expected.dtype();
    let (roundings, unit, magnitude) = match bound {
        Bound::Exact => (0.0, 0.0, None),
        Bound::Roundings(count) => (count, unit_roundoff(dtype), None),
        Bound::Of(count, dtype, magnitude) => (count, unit_roundoff(dtype), Some(magnitude)),
    };
    let (found, expected) = (integers_or_floats(found), integers_or_floats(expected));
    let magnitude = magnitude.map(|magnitude| floats(&magnitude));
    let mut worst: Option<(usize, f64)> = None;
    for i in 0..expected.len() {
        let (f, e) = (found[i].1, expected[i].1);
        let allowed = match &magnitude {
            None => roundings * unit * e.abs(),
            Some(magnitude) => roundings * unit * magnitude[i],
        };
        let floor = if roundings > 0.0 { smallest(dtype) } else { 0.0 };
        let same = found[i].0 == expected[i].0 || (f.is_nan() && e.is_nan());
        if same || (f - e).abs() <= allowed + floor {
            continue;
        }
        let excess = (f - e).abs() / (allowed + floor);
        // A NaN is worse than any number.
        if worst.is_none_or(|(_, before)| excess > before || excess.is_nan()) {
            worst = Some((i, excess));
        }
    }
    if let Some((i, excess)) = worst {
        panic!(
            "{kernel}: element {i} of {} is {}, candle's CPU says {}: {excess:.2} times the bound",
            expected.len(),
            found[i].1,
            expected[i].1,
        );
    }
}

/// Each element's bits and its value.
fn integers_or_floats(tensor: &Tensor) -> Vec<(u64, f64)> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>().unwrap().iter().map(|x| (x.to_bits(), *x)).collect(),
        DType::I64 => {
            flat.to_vec1::<i64>().unwrap().iter().map(|x| (*x as u64, *x as f64)).collect()
        }
        // What is narrower is exact in f64, so its bits decide as well as its own.
        _ => floats(tensor).into_iter().map(|x| (x.to_bits(), x)).collect(),
    }
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
    flat.to_vec1().unwrap()
}
