//! Plain f64: T[t,i] = Σ_j U[t,j]·A[j,i].

/// U `[m, r]`, A `[r, n]`.
pub fn forward(m: usize, n: usize, r: usize, u: &[f64], a: &[f64]) -> Vec<f64> {
    let product = |t: usize, i: usize| (0..r).map(|j| u[t * r + j] * a[j * n + i]).sum();
    (0..m * n).map(|at| product(at / n, at % n)).collect()
}
