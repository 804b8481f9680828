//! Plain f64: dA[j,i] = Σ_t U[t,j]·x[t,i] and dB[o,j] = Σ_t dy[t,o]·V[t,j].

/// dA = Uᵀ·x, `[r, in]`.
pub fn down(m: usize, n_in: usize, r: usize, u: &[f64], x: &[f64]) -> Vec<f64> {
    let mut da = vec![0.0; r * n_in];
    for j in 0..r {
        for i in 0..n_in {
            da[j * n_in + i] = (0..m).map(|t| u[t * r + j] * x[t * n_in + i]).sum();
        }
    }
    da
}

/// dB = dyᵀ·V, `[out, r]`.
pub fn up(m: usize, n_out: usize, r: usize, v: &[f64], dy: &[f64]) -> Vec<f64> {
    let mut db = vec![0.0; n_out * r];
    for o in 0..n_out {
        for j in 0..r {
            db[o * r + j] = (0..m).map(|t| dy[t * n_out + o] * v[t * r + j]).sum();
        }
    }
    db
}
