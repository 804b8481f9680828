//! Plain f64: logits[t,v] = Σ_c h[t,c]·W[v,c] and dh[t,c] = Σ_v dlogits[t,v]·W[v,c].

/// logits = h·Wᵀ.
pub fn forward(m: usize, hidden: usize, vocab: usize, h: &[f64], w: &[f64]) -> Vec<f64> {
    let mut logits = vec![0.0; m * vocab];
    for t in 0..m {
        for v in 0..vocab {
            logits[t * vocab + v] =
                (0..hidden).map(|c| h[t * hidden + c] * w[v * hidden + c]).sum();
        }
    }
    logits
}

/// dh = dlogits·W.
pub fn backward(m: usize, hidden: usize, vocab: usize, dlogits: &[f64], w: &[f64]) -> Vec<f64> {
    let mut dh = vec![0.0; m * hidden];
    for t in 0..m {
        for c in 0..hidden {
            dh[t * hidden + c] =
                (0..vocab).map(|v| dlogits[t * vocab + v] * w[v * hidden + c]).sum();
        }
    }
    dh
}
