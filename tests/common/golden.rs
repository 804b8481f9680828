//! Golden files of other tools: how to read them and how near is near.
//!
//! The bounds themselves are in the one table, `tol.rs`.

use std::path::PathBuf;

use half::bf16;
use safetensors::{Dtype, SafeTensors};

pub use super::tol::{GRADIENT, LOGITS, LOSS};

/// A path under tests/golden.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A safetensors file under tests/golden.
pub struct Tensors {
    name: String,
    bytes: Vec<u8>,
}

impl Tensors {
    #[track_caller]
    pub fn open(name: &str) -> Self {
        Tensors { name: name.into(), bytes: std::fs::read(path(name)).unwrap() }
    }

    pub fn names(&self) -> Vec<String> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.names().into_iter().map(String::from).collect()
    }

    /// Dtype, shape and bytes.
    pub fn find(&self, tensor: &str) -> Option<(Dtype, Vec<usize>, Vec<u8>)> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(tensor).ok()?;
        Some((view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    }

    #[track_caller]
    pub fn raw(&self, tensor: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
        self.find(tensor).unwrap_or_else(|| panic!("{} has no `{tensor}`", self.name))
    }

    /// Values of an F32 or BF16 tensor, exactly.
    #[track_caller]
    pub fn floats(&self, tensor: &str) -> Vec<f32> {
        let (dtype, _, data) = self.raw(tensor);
        match dtype {
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::BF16 => {
                data.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect()
            }
            dtype => panic!("{tensor} in {} is {dtype:?}", self.name),
        }
    }

    /// Values of an I64 or I32 tensor.
    #[track_caller]
    pub fn ids(&self, tensor: &str) -> Vec<u32> {
        let (dtype, _, data) = self.raw(tensor);
        match dtype {
            Dtype::I32 => {
                data.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as u32).collect()
            }
            dtype => panic!("{tensor} in {} is {dtype:?}", self.name),
        }
    }
}

/// Standard deviation.
pub fn std(x: &[f32]) -> f64 {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// The largest difference in standard deviations of `want`; NaN wherever one is.
#[track_caller]
pub fn apart(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let worst = got.iter().zip(want).map(|(&g, &w)| (f64::from(g) - f64::from(w)).abs());
    worst.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
        / std(want)
}

/// The norm of the difference over the norm of `want`; NaN wherever one is.
#[track_caller]
pub fn apart_in_norm(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut got.iter().zip(want).map(|(&g, &w)| f64::from(g) - f64::from(w)))
        / norm(&mut want.iter().map(|&w| f64::from(w)))
}

/// Fails unless `value`, a distance from what is wanted, is at most `bound`; a NaN fails.
#[track_caller]
pub fn assert_within(what: &str, value: f64, bound: f64) {
    eprintln!("{what}: {value:.2e} of {bound:.0e} allowed");
    assert!(value <= bound, "{what}: {value:e} apart, allowed {bound:e}");
}

/// Fails unless `value` is a distance well beyond `bound`: a planted mistake must be seen.
#[track_caller]
pub fn assert_beyond(what: &str, value: f64, bound: f64) {
    assert!(value > 10.0 * bound, "{what}: a mistake that passes, {value:e}, allowed {bound:e}");
}
