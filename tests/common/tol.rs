//! The one table of tolerances: from unit roundoff, roundings and sum lengths, never by taste.
//!
//! # Derivation
//!
//! A format with p bits of precision rounds to nearest with a relative error of at most its unit
//! roundoff u = 2^-p: f32 u = 2^-24, bf16 u = 2^-8, f64 u = 2^-53 (not "epsilon", which is the
//! spacing 2u).
//!
//! An op takes inputs that the test made exact in the op's dtype, computes in f32, and stores
//! its result in the dtype. Its error on one output is bounded by
//!
//! ```text
//! |got - want| <= ( rounds·u(dtype) + (steps + chain(k))·u(f32) ) · M
//! ```
//!
//! - `rounds`: how many values on the way are rounded to the dtype (the output itself, and an
//!   intermediate such as the normalised x of RMSNorm).
//! - `steps`: f32 roundings on the way that are not in a sum: one per multiplication, division,
//!   root; two per unit in the last place that a function such as `exp` may be off.
//! - `chain(k)`: what a sum of k terms in f32 adds. The worst case is k·u. With roundings that
//!   are mean-independent, |error| <= λ·sqrt(k)·u·Σ|terms| except with a probability of at most
//!   2·exp(-λ²/2) (Higham and Mary 2019, "A new approach to probabilistic rounding error
//!   analysis", theorem 2.4). λ = 6 makes that 3e-8, so chain(k) = min(k, 6·sqrt(k)).
//! - M: a bound on the magnitudes the roundings act on. For a result without cancellation it is
//!   |want|, the default. For a sum it is Σ|a_i||b_i|, which the test computes beside the
//!   reference and gives, per element ([`Tol::magnitudes`]) or as one bound ([`Tol::magnitude`]).
//!
//! Where only the stored result is rounded to the dtype, that rounding acts on the result and not
//! on M: |got - want| <= e + u(dtype)·(|want| + e) with e the bound above of what comes before
//! ([`Tol::round_result`]).
//!
//! Products of factors (1 + δ) leave terms of second order; with E the bracket above, the true
//! factor is at most E/(1 - E). Results below the smallest normal number have an absolute error
//! instead, so one smallest normal f32 is allowed on top.
//!
//! # A whole model in bf16
//!
//! From layer to layer a value is rounded to bf16 13 times (norm, V, q, rope, a GPU's P, o, o_proj, residual,
//! norm, V, gate, h, residual), with gains near 1 between layers and one peaked softmax that multiplies what its
//! scores are off by with their size, about 3. The roundings of activations are independent, so they add up
//! as a root of the sum of squares, counted with 3 standard deviations of a uniform error (u/sqrt(3), here
//! u/2): [`bf16_roundings`] of `layers` is 3·sqrt(3·13·layers)/2. A logit, and the loss of a token, is off by
//! so many u times the largest logit.
//!
//! Against a tool that computes in f32, the decoded weights' and the adapter's own roundings count once more:
//! sqrt(2) of it ([`logits_in_bf16`]). Two devices that round in the same places differ by at most sqrt(2) of that. The mean over N tokens, whose
//! activations are rounded independently, is off by 1/sqrt(N) of it. Training adds what the parameters differ
//! by: gradients are off by a root of twice as many roundings (forward and backward, [`bf16_gradient`]) times
//! their norm, AdamW moves each parameter by lr times its gradient over the gradient's size, so a step moves
//! the next loss by at most 2·lr·‖dg‖ (twice: where a gradient is all rounding, its sign is one too).
//! [`same_loss_in_bf16`] is the sum.
//!
//! # Bounds against other tools
//!
//! [`LOGITS`], [`GRADIENT`] and [`LOSS`] are not derived from roundings but set by what they must tell
//! apart. transformers and dayrun both compute in f32, sum in other orders and use other
//! exponentials, so they stay 1e-6 to 2e-5 of the logits' standard deviation apart; the smallest mistake
//! planted in the golden models (docs/LOG.md, 2026-11-24, has them all) moves logits by 3 standard
//! deviations. Each bound lies between, nearer to rounding, and every golden test also shows that
//! mistakes are out of bounds.

use super::inputs::DType;

/// Roundings of bf16, with 3 standard deviations, between the tokens and the logits.
pub fn bf16_roundings(layers: usize) -> f64 {
    3.0 * (3.0 * 13.0 * layers as f64).sqrt() / 2.0
}

/// How far a logit in bf16 may be from one in f32.
pub fn logits_in_bf16(layers: usize, largest_logit: f64) -> f64 {
    2f64.sqrt() * bf16_roundings(layers) * DType::Bf16.unit_roundoff() * largest_logit
}

/// The norm of what bf16 puts on a gradient, in norms of the gradient.
pub fn bf16_gradient(layers: usize) -> f64 {
    2f64.sqrt() * bf16_roundings(layers) * DType::Bf16.unit_roundoff()
}

/// How far apart the mean losses of two devices may be that compute in bf16. `moved`: the sum of lr·‖g‖ over
/// the steps before.
pub fn same_loss_in_bf16(layers: usize, largest_logit: f64, loss_tokens: usize, moved: f64) -> f64 {
    let one = bf16_roundings(layers) * DType::Bf16.unit_roundoff() * largest_logit;
    2f64.sqrt() * (one / (loss_tokens as f64).sqrt() + 2.0 * moved * bf16_gradient(layers))
}

/// Against another tool: largest difference of logits, in standard deviations of the wanted ones.
pub const LOGITS: f64 = 1e-4;
/// Against another tool: norm of the difference of gradients, in norms of the wanted ones.
pub const GRADIENT: f64 = 1e-3;
/// Against another tool: relative difference of losses.
pub const LOSS: f64 = 1e-4;

/// Two computations in bf16 that round in the same places, or all but: their distances in norm from the same in
/// f32 are two draws of one distribution. Roundings that many results share, early in the model, make the
/// distance itself uncertain; a mistake in a fragment or a scale is tens of times beyond.
pub const TWIN: f64 = 2.0;

/// `quick_exp` is off by up to 2^-17, so many times the unit roundoff of f32. Its own test holds it to that.
pub const QUICK_EXP_STEPS: usize = 1 << 7;

/// How often something of probability `p` happens in `n` independent tries: the mean, and how far from it is
/// allowed: 5 standard deviations, which chance passes once in two million.
pub fn binomial(n: usize, p: f64) -> (f64, f64) {
    let n = n as f64;
    (n * p, 5.0 * (n * p * (1.0 - p)).sqrt())
}

/// How far the mean, and the mean square, of `n` draws from [-1, 1) may be from 0 and 1/3: 5 of their standard
/// deviations, sqrt(1/3n) and sqrt((1/5 - 1/9)/n).
pub fn uniform_moments(n: usize) -> (f64, f64) {
    let n = n as f64;
    (5.0 * (1.0 / 3.0 / n).sqrt(), 5.0 * ((1.0 / 5.0 - 1.0 / 9.0) / n).sqrt())
}

/// Roundings of f64 when serde_json reads one: the digits, the power of ten, and their product.
pub const READ_JSON: usize = 3;

/// A tolerance: see the module's text for the formula.
#[derive(Clone, Copy, Debug)]
pub struct Tol<'a> {
    dtype: DType,
    rounds: usize,
    steps: usize,
    sum_len: usize,
    /// The result is rounded to the dtype at the end: relative to |want|, whatever M is.
    round_result: bool,
    magnitude: Magnitude<'a>,
    cols: Option<usize>,
}

#[derive(Clone, Copy)]
enum Magnitude<'a> {
    Want,
    One(f64),
    Each(&'a [f64]),
}

impl std::fmt::Debug for Magnitude<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Magnitude::Want => write!(f, "|want|"),
            Magnitude::One(bound) => write!(f, "{bound:e}"),
            Magnitude::Each(_) => write!(f, "a bound for each element"),
        }
    }
}

impl Tol<'static> {
    /// No error allowed yet, for results stored in `dtype`.
    pub fn new(dtype: DType) -> Self {
        Tol {
            dtype,
            rounds: 0,
            steps: 0,
            sum_len: 0,
            round_result: false,
            magnitude: Magnitude::Want,
            cols: None,
        }
    }

    /// For a derivative by [`super::finite_difference`], in f64.
    ///
    /// Its step is h = 2^-10, extrapolated, so truncation is h^4·|f⁗'|/480. The tests' functions
    /// are smooth on the scale of their inputs: with a fifth derivative below 2^15·M that is
    /// 2^-34·M. The roundings of some 4,000 operations in f give 6·sqrt(4000)·2^-53·M/h = 2^-34·M.
    /// Allowed are 2^-30·M, as 2^23 roundings of f64. M, `magnitude`, bounds Σ|terms of f|.
    pub fn finite_difference(magnitude: f64) -> Self {
        Tol::new(DType::F64).rounds(1 << 23).magnitude(magnitude)
    }
}

impl<'a> Tol<'a> {
    /// `n` more roundings to the dtype.
    pub fn rounds(mut self, n: usize) -> Self {
        self.rounds += n;
        self
    }

    /// `n` more roundings of f32 outside of sums.
    pub fn steps(mut self, n: usize) -> Self {
        self.steps += n;
        self
    }

    /// A sum of `k` terms in f32 lies on the way.
    pub fn sum_len(mut self, k: usize) -> Self {
        self.sum_len += k;
        self
    }

    /// The result itself is rounded to the dtype, once. Where M is a sum's bound this is tighter
    /// than `rounds(1)`: the rounding acts on the result, which cancellation has made small.
    pub fn round_result(mut self) -> Self {
        self.round_result = true;
        self
    }

    /// One magnitude bound for all elements.
    pub fn magnitude<'b>(self, bound: f64) -> Tol<'b>
    where
        'a: 'b,
    {
        Tol { magnitude: Magnitude::One(bound), ..self }
    }

    /// A magnitude bound for each element: Σ|a_i||b_i| of its own sum.
    pub fn magnitudes<'b>(self, bounds: &'b [f64]) -> Tol<'b>
    where
        'a: 'b,
    {
        Tol { magnitude: Magnitude::Each(bounds), ..self }
    }

    /// The array has rows of `n` elements: a failure names the worst row.
    pub fn cols(mut self, n: usize) -> Self {
        self.cols = Some(n);
        self
    }

    /// Elements in a row, for an array of `len` elements.
    pub fn row_len(&self, len: usize) -> usize {
        self.cols.unwrap_or(len).max(1)
    }

    /// The error allowed relative to the magnitude bound.
    pub fn relative(&self) -> f64 {
        let k = self.sum_len as f64;
        let chain = k.min(6.0 * k.sqrt());
        let first_order = self.rounds as f64 * self.dtype.unit_roundoff()
            + (self.steps as f64 + chain) * DType::F32.unit_roundoff();
        assert!(first_order < 0.5, "a tolerance of {first_order} accepts anything");
        first_order / (1.0 - first_order)
    }

    /// The absolute error allowed on element `i` whose true value is `want`.
    pub fn allowed(&self, i: usize, want: f64) -> f64 {
        let magnitude = match self.magnitude {
            Magnitude::Want => want.abs(),
            Magnitude::One(bound) => bound,
            Magnitude::Each(bounds) => bounds[i],
        };
        let exact = self.rounds + self.steps + self.sum_len == 0 && !self.round_result;
        let underflow = if exact { 0.0 } else { f64::from(f32::MIN_POSITIVE) };
        let before = self.relative() * magnitude + underflow;
        let u = if self.round_result { self.dtype.unit_roundoff() } else { 0.0 };
        before + u * (want.abs() + before)
    }
}
