//! Plain f64 attention: one query after another, the whole softmax at once.

use super::Dims;

/// (o, lse) of packed documents; shapes as in the op.
pub fn forward(
    dims: &Dims,
    cu_seqlens: &[u32],
    q: &[f64],
    k: &[f64],
    v: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let d = dims.head_dim;
    let mut o = vec![0.0; q.len()];
    let mut lse = vec![0.0; q.len() / d];
    for_each_query(dims, cu_seqlens, |row, keys| {
        let (p, row_lse) = probabilities(dims, &q[row * d..][..d], k, &keys);
        lse[row] = row_lse;
        for (p, key) in p.iter().zip(&keys) {
            for c in 0..d {
                o[row * d + c] += p * v[key * d + c];
            }
        }
    });
    (o, lse)
}

/// (dq, dk, dv) for the gradient `d_o` of o.
pub fn backward(
    dims: &Dims,
    cu_seqlens: &[u32],
    q: &[f64],
    k: &[f64],
    v: &[f64],
    d_o: &[f64],
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (d, scale) = (dims.head_dim, f64::from(dims.scale));
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    for_each_query(dims, cu_seqlens, |row, keys| {
        let d_o = &d_o[row * d..][..d];
        let (p, _) = probabilities(dims, &q[row * d..][..d], k, &keys);
        let dp: Vec<f64> = keys.iter().map(|key| dot(d_o, &v[key * d..][..d])).collect();
        let mean = dot(&p, &dp);
        for ((p, dp), key) in p.iter().zip(&dp).zip(&keys) {
            let ds = scale * p * (dp - mean);
            for c in 0..d {
                dv[key * d + c] += p * d_o[c];
                dq[row * d + c] += ds * k[key * d + c];
                dk[key * d + c] += ds * q[row * d + c];
            }
        }
    });
    (dq, dk, dv)
}

/// Calls `f(query, keys)` with a query's index in `[T * heads]` and those of the keys it sees in
/// `[T * kv_heads]`.
pub fn for_each_query(dims: &Dims, cu_seqlens: &[u32], mut f: impl FnMut(usize, Vec<usize>)) {
    for document in cu_seqlens.windows(2) {
        for t in document[0]..document[1] {
            for head in 0..dims.heads {
                let kv_head = head / (dims.heads / dims.kv_heads);
                let in_window =
                    |u: &u32| dims.window.is_none_or(|window| ((t - u) as usize) < window);
                let seen = (document[0]..=t).filter(in_window);
                let keys = seen.map(|u| u as usize * dims.kv_heads + kv_head);
                f(t as usize * dims.heads + head, keys.collect());
            }
        }
    }
}

/// (P, lse) of one query over the keys it sees.
pub fn probabilities(dims: &Dims, q: &[f64], k: &[f64], keys: &[usize]) -> (Vec<f64>, f64) {
    let d = dims.head_dim;
    let score = |key: &usize| f64::from(dims.scale) * dot(q, &k[key * d..][..d]);
    let scores: Vec<f64> = keys.iter().map(score).collect();
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
    let lse = max + sum.ln();
    (scores.iter().map(|s| (s - lse).exp()).collect(), lse)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
