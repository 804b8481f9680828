//! The decode in plain f64.

use crate::quant::Nf4Matrix;

/// All elements, row-major: the f32 product, which is what the format defines.
pub fn forward(w: &Nf4Matrix) -> Vec<f64> {
    (0..w.rows * w.cols).map(|i| f64::from(w.value(i))).collect()
}
