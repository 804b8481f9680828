//! Plain f64: y[t,o] = Σ_i x[t,i]·W[o,i] + Σ_j V[t,j]·B[o,j] and its dx.

/// y = x·Wᵀ + V·Bᵀ with W `[out, in]`, V `[m, r]`, B `[out, r]`.
#[allow(clippy::too_many_arguments)]
pub fn forward(
    m: usize,
    n_in: usize,
    n_out: usize,
    r: usize,
    x: &[f64],
    w: &[f64],
    v: &[f64],
    b: &[f64],
) -> Vec<f64> {
    let mut y = vec![0.0; m * n_out];
    for t in 0..m {
        for o in 0..n_out {
            let base: f64 = (0..n_in).map(|i| x[t * n_in + i] * w[o * n_in + i]).sum();
            let low: f64 = (0..r).map(|j| v[t * r + j] * b[o * r + j]).sum();
            y[t * n_out + o] = base + low;
        }
    }
    y
}

/// dx += dy·W + U·A with U `[m, r]`, A `[r, in]`.
#[allow(clippy::too_many_arguments)]
pub fn backward_add(
    m: usize,
    n_in: usize,
    n_out: usize,
    r: usize,
    dy: &[f64],
    w: &[f64],
    u: &[f64],
    a: &[f64],
    dx: &mut [f64],
) {
    for t in 0..m {
        for i in 0..n_in {
            let base: f64 = (0..n_out).map(|o| dy[t * n_out + o] * w[o * n_in + i]).sum();
            let low: f64 = (0..r).map(|j| u[t * r + j] * a[j * n_in + i]).sum();
            dx[t * n_in + i] += base + low;
        }
    }
}
