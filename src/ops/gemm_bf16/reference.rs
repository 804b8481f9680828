//! Plain f64: C[i,j] = alpha · Σ_s Σ_l A_s[i,l]·B_s[j,l] (nt) or ·B_s[l,j] (nn), without pitches.

/// One product: A `[m, k]` and B `[n, k]` (nt) or `[k, n]` (nn).
pub struct Segment<'a> {
    pub a: &'a [f64],
    pub b: &'a [f64],
    pub k: usize,
}

/// C = alpha · Σ A·Bᵀ.
pub fn nt(m: usize, n: usize, alpha: f64, segments: &[Segment]) -> Vec<f64> {
    product(m, n, alpha, segments, |s, j, l| s.b[j * s.k + l])
}

/// C = alpha · Σ A·B.
pub fn nn(m: usize, n: usize, alpha: f64, segments: &[Segment]) -> Vec<f64> {
    product(m, n, alpha, segments, |s, j, l| s.b[l * n + j])
}

fn product(
    m: usize,
    n: usize,
    alpha: f64,
    segments: &[Segment],
    b: impl Fn(&Segment, usize, usize) -> f64,
) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for (at, c) in c.iter_mut().enumerate() {
        let (i, j) = (at / n, at % n);
        for s in segments {
            *c += (0..s.k).map(|l| s.a[i * s.k + l] * b(s, j, l)).sum::<f64>();
        }
        *c *= alpha;
    }
    c
}
