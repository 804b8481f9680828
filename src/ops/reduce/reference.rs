//! Reductions in plain f64.

/// `Σ x_i²`.
pub fn sum_of_squares(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum()
}

/// `Σ x_i`.
pub fn sum(x: &[f64]) -> f64 {
    x.iter().sum()
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(x: &[f64]) -> Option<usize> {
    x.iter().position(|x| !x.is_finite())
}
