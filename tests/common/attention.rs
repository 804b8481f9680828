//! What attention's gradients in bf16 are compared with, for the kernels' test and bench.

use dayrun::ops::attention::{Dims, reference};
use half::bf16;

use super::{DType, Tol, abs_dot, assert_close, dot};

/// Keys or rows in a tile of the kernels.
pub const TILE: usize = 64;

/// Where the o and lse come from that backward was given.
#[derive(Clone, Copy, PartialEq)]
pub enum Saved {
    /// The reference's, rounded to what forward stores.
    Reference,
    /// Forward's kernel.
    Forward,
}

/// What errors of an output's terms are relative to.
struct Magnitudes {
    /// Σ|terms| that are rounded to bf16 on the way.
    rounded: Vec<f64>,
    /// Σ|terms| with every sum inside of them made of positive terms.
    all: Vec<f64>,
}

impl Magnitudes {
    fn none(len: usize) -> Self {
        Magnitudes { rounded: vec![0.0; len], all: vec![0.0; len] }
    }

    /// Fails unless `got` is within the roundings of operands and of the result to bf16, and `f32_part`.
    #[track_caller]
    fn assert(self, name: &str, got: &[bf16], want: &[f64], head_dim: usize, f32_part: Tol) {
        // Errors of f32 in units of bf16's, so that one tolerance holds both.
        let share = f32_part.relative() / DType::Bf16.unit_roundoff();
        let sizes = self.rounded.iter().zip(&self.all).map(|(rounded, all)| rounded + share * all);
        let sizes: Vec<f64> = sizes.collect();
        let tol = Tol::new(DType::Bf16).rounds(1).round_result();
        assert_close(name, got, want, tol.magnitudes(&sizes).cols(head_dim));
    }
}

/// Compares what backward wrote with the reference; q, k, v and d_o are exact in bf16.
///
/// Where the tolerances come from. With S = scale·max Σ|q||k| and L = S + ln keys ≥ |lse|, the exponent of P is
/// off by S·(chain(head_dim) + 2) units for the score (its sum, the factor and its log2(e)), by 3 L for lse (as
/// it is stored, log2(e), the product), by S + L for their difference; exp2 may be off by 4. P and dS are rounded
/// to bf16 once each, as operands, and so is the result. dS has a product with the difference of two sums of
/// head_dim terms, and delta is made of the o that was stored (see `magnitudes`). From forward's kernel come an lse
/// and an o with the errors that tests/ops/cuda/attention.rs allows them.
#[track_caller]
pub fn assert_gradients(
    dims: &Dims,
    cu_seqlens: &[u32],
    inputs: [&[f64]; 4],
    saved: Saved,
    [got_dq, got_dk, got_dv]: [&[bf16]; 3],
) {
    let ([q, k, v, d_o], d) = (inputs, dims.head_dim);
    let score = score_bound(dims, cu_seqlens, q, k);
    let lens = cu_seqlens.windows(2).map(|pair| (pair[1] - pair[0]) as usize);
    let longest = lens.max().unwrap_or(0);
    let tiles = longest.div_ceil(TILE);
    let chain = |k: usize| (k as f64).min(6.0 * (k as f64).sqrt());
    let lse_size = score + (longest.max(2) as f64).ln() + 1.0;
    let mut exponent = score * (chain(d) + 2.0) + 3.0 * lse_size + score + lse_size;
    // What the error of o is relative to, in units of bf16.
    let (mut o_sizes, _) = reference::forward(dims, cu_seqlens, q, k, v);
    o_sizes.iter_mut().for_each(|o| *o = o.abs());
    if saved == Saved::Forward {
        exponent += lse_size * (16.0 + 5.0 * tiles as f64 + chain(d + longest));
        let steps = 2 * (score.ceil() * (chain(d) + 6.0)) as usize + 16 + 5 * tiles;
        let f32_part = Tol::new(DType::F32).steps(steps).sum_len(2 * longest).relative();
        let abs_v: Vec<f64> = v.iter().map(|v| v.abs()).collect();
        let (sums, _) = reference::forward(dims, cu_seqlens, q, k, &abs_v);
        for (size, sum) in o_sizes.iter_mut().zip(sums) {
            *size += sum * (1.0 + f32_part / DType::Bf16.unit_roundoff());
        }
    }
    let p = Tol::new(DType::F32).steps(exponent.ceil() as usize + 4);
    let ds = p.sum_len(2 * d).steps(4);
    let rows = longest * dims.group();

    let (want_dq, want_dk, want_dv) = reference::backward(dims, cu_seqlens, q, k, v, d_o);
    let [dq, dk, dv] = magnitudes(dims, cu_seqlens, inputs, &o_sizes);
    dv.assert("attention_backward dv", got_dv, &want_dv, d, p.sum_len(rows));
    dk.assert("attention_backward dk", got_dk, &want_dk, d, ds.sum_len(rows));
    dq.assert("attention_backward dq", got_dq, &want_dq, d, ds.sum_len(longest));
}

/// The largest scale·Σ|q||k|.
fn score_bound(dims: &Dims, cu_seqlens: &[u32], q: &[f64], k: &[f64]) -> f64 {
    let (d, mut most) = (dims.head_dim, 0f64);
    reference::for_each_query(dims, cu_seqlens, |row, keys| {
        for key in keys {
            most = most.max(abs_dot(&q[row * d..][..d], &k[key * d..][..d]));
        }
    });
    most * f64::from(dims.scale.abs())
}

/// For dq, dk, dv what their errors are relative to.
///
/// The error of a row's o moves all dS of the row by P times the same number, at most u Σ|d_o|·o_sizes: dq by
/// that number times Σ P k, in which the keys cancel. A P below the smallest normal f32 may become 0.
fn magnitudes(
    dims: &Dims,
    cu_seqlens: &[u32],
    [q, k, v, d_o]: [&[f64]; 4],
    o_sizes: &[f64],
) -> [Magnitudes; 3] {
    let (d, scale) = (dims.head_dim, f64::from(dims.scale.abs()));
    // In units of bf16, as all that is rounded.
    let lost = f64::from(f32::MIN_POSITIVE) / DType::Bf16.unit_roundoff();
    let (o, _) = reference::forward(dims, cu_seqlens, q, k, v);
    let mut dq = Magnitudes::none(q.len());
    let (mut dk, mut dv) = (Magnitudes::none(k.len()), Magnitudes::none(k.len()));
    reference::for_each_query(dims, cu_seqlens, |row, keys| {
        let at = row * d;
        let (q, d_o) = (&q[at..at + d], &d_o[at..at + d]);
        let (p, _) = reference::probabilities(dims, q, k, &keys);
        let (delta, delta_size) = (dot(d_o, &o[at..at + d]), abs_dot(d_o, &o[at..at + d]));
        let delta_error = abs_dot(d_o, &o_sizes[at..at + d]);
        let mut mean_key = vec![0.0; d];
        for (p, key) in p.iter().zip(keys) {
            let to = key * d;
            let (k, v) = (&k[to..to + d], &v[to..to + d]);
            let p_size = p + lost;
            let ds = scale * p_size * (dot(d_o, v) - delta).abs();
            let all = scale * p_size * (abs_dot(d_o, v) + delta_size);
            let moved = scale * p_size * delta_error;
            for c in 0..d {
                dq.rounded[at + c] += ds * k[c].abs();
                dq.all[at + c] += all * k[c].abs();
                dk.rounded[to + c] += (ds + moved) * q[c].abs();
                dk.all[to + c] += all * q[c].abs();
                dv.rounded[to + c] += p_size * d_o[c].abs();
                mean_key[c] += p * k[c];
            }
        }
        for (c, mean) in mean_key.iter().enumerate() {
            dq.rounded[at + c] += scale * delta_error * mean.abs();
        }
    });
    dv.all.clone_from(&dv.rounded);
    [dq, dk, dv]
}
