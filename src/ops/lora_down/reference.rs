//! Plain f64: V[t,j] = s·Σ_i x[t,i]·A[j,i] and U[t,j] = s·Σ_o dy[t,o]·B[o,j].

/// V = s·x·Aᵀ.
pub fn forward(m: usize, n_in: usize, r: usize, scale: f64, x: &[f64], a: &[f64]) -> Vec<f64> {
    let mut v = vec![0.0; m * r];
    for t in 0..m {
        for j in 0..r {
            v[t * r + j] =
                scale * (0..n_in).map(|i| x[t * n_in + i] * a[j * n_in + i]).sum::<f64>();
        }
    }
    v
}

/// U = s·dy·B.
pub fn backward(m: usize, n_out: usize, r: usize, scale: f64, dy: &[f64], b: &[f64]) -> Vec<f64> {
    let mut u = vec![0.0; m * r];
    for t in 0..m {
        for j in 0..r {
            u[t * r + j] =
                scale * (0..n_out).map(|o| dy[t * n_out + o] * b[o * r + j]).sum::<f64>();
        }
    }
    u
}
