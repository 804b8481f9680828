//! AdamW in plain f64: PyTorch's single-tensor algorithm, line by line.

use super::Hyper;

/// Updates params, m and v in place.
pub fn step(
    hyper: &Hyper,
    grad_scale: f64,
    params: &mut [f64],
    grads: &[f64],
    m: &mut [f64],
    v: &mut [f64],
) {
    let bias1 = 1.0 - hyper.beta1.powf(hyper.step as f64);
    let bias2 = 1.0 - hyper.beta2.powf(hyper.step as f64);
    for i in 0..params.len() {
        let g = grads[i] * grad_scale;
        params[i] *= 1.0 - hyper.lr * hyper.weight_decay;
        m[i] = hyper.beta1 * m[i] + (1.0 - hyper.beta1) * g;
        v[i] = hyper.beta2 * v[i] + (1.0 - hyper.beta2) * g * g;
        let denominator = v[i].sqrt() / bias2.sqrt() + hyper.eps;
        params[i] -= hyper.lr / bias1 * m[i] / denominator;
    }
}
