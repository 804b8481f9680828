//! Cross-entropy in plain f64.

fn softmax(logits: &[f64]) -> (Vec<f64>, f64) {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|logit| (logit - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    (exps.iter().map(|e| e / sum).collect(), sum.ln() + max)
}

/// losses `[P]` of logits `[P, vocab]`.
pub fn forward(vocab: usize, logits: &[f64], targets: &[u32]) -> Vec<f64> {
    let loss = |(row, &target): (&[f64], &u32)| softmax(row).1 - row[target as usize];
    logits.chunks_exact(vocab).zip(targets).map(loss).collect()
}

/// dlogits `[P, vocab]` of `scale · Σ losses`.
pub fn backward(vocab: usize, logits: &[f64], targets: &[u32], scale: f64) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.len());
    for (row, &target) in logits.chunks_exact(vocab).zip(targets) {
        let (p, _) = softmax(row);
        let target = target as usize;
        // p - 1 without cancellation.
        let others: f64 = (0..vocab).filter(|&j| j != target).map(|j| p[j]).sum();
        out.extend((0..vocab).map(|j| scale * if j == target { -others } else { p[j] }));
    }
    out
}
