//! SwiGLU in plain f64.

/// g / (1 + e^-g).
pub fn silu(g: f64) -> f64 {
    g / (1.0 + (-g).exp())
}

/// h.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(&g, u)| silu(g) * u).collect()
}

/// (dgate, dup).
pub fn backward(gate: &[f64], up: &[f64], dh: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let slope = |g: f64| {
        let sigma = 1.0 / (1.0 + (-g).exp());
        sigma * (1.0 + g * (1.0 - sigma))
    };
    let dgate = (0..gate.len()).map(|i| dh[i] * up[i] * slope(gate[i])).collect();
    let dup = (0..gate.len()).map(|i| dh[i] * silu(gate[i])).collect();
    (dgate, dup)
}
