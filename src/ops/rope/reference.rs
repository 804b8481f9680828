//! RoPE in plain f64.

/// x `[T, heads·d]` rotated by its positions; `sign` -1 turns back.
pub fn rotate(theta: f64, position_ids: &[u32], head_dim: usize, sign: f64, x: &[f64]) -> Vec<f64> {
    let half = head_dim / 2;
    let mut out = x.to_vec();
    if position_ids.is_empty() {
        return out;
    }
    let cols = x.len() / position_ids.len();
    for (row, &position) in out.chunks_exact_mut(cols).zip(position_ids) {
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let angle = f64::from(position) * theta.powf(-2.0 * i as f64 / head_dim as f64);
                let (sin, cos) = (sign * angle).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
    out
}
