//! RMSNorm in plain f64.

/// (y, rstd) of x `[T, hidden]`.
pub fn forward(hidden: usize, eps: f64, x: &[f64], w: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut y = Vec::with_capacity(x.len());
    let mut rstd = Vec::new();
    for x in x.chunks_exact(hidden) {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / hidden as f64;
        let r = 1.0 / (mean + eps).sqrt();
        y.extend(x.iter().zip(w).map(|(x, w)| w * x * r));
        rstd.push(r);
    }
    (y, rstd)
}

/// What the backward adds to dx.
pub fn backward(hidden: usize, eps: f64, x: &[f64], w: &[f64], dy: &[f64]) -> Vec<f64> {
    let (_, rstd) = forward(hidden, eps, x, w);
    let mut dx = Vec::with_capacity(x.len());
    for ((x, dy), r) in x.chunks_exact(hidden).zip(dy.chunks_exact(hidden)).zip(rstd) {
        let mean = (0..hidden).map(|j| w[j] * dy[j] * x[j] * r).sum::<f64>() / hidden as f64;
        dx.extend((0..hidden).map(|i| r * (w[i] * dy[i] - x[i] * r * mean)));
    }
    dx
}
