//! Exponentials of a tile of scores, for attention in bf16: what lies between two products.
//!
//! Only levels with bf16 dot products have them; the others' attention computes in f32.

use std::ops::Range;

use half::bf16;

use super::product::Tile;
use super::{Level, MR, NR, rows_fit};

/// The running softmax of rows: base-2 maximum, sum of exponentials under it, and the factor by which
/// a tile lets what was summed before it shrink.
pub struct Rows<'a> {
    pub max: &'a mut [f32],
    pub sum: &'a mut [f32],
    pub rescale: &'a mut [f32],
}

/// Scores `s` of `rows.max.len()` rows become probabilities `2^(factor·s - max)` in bf16, 0 where a
/// row does not see the key; `rows` is brought up to date.
///
/// The sum takes the probabilities before they are rounded, off by less than 2^-18 of themselves; below
/// 2^-125.5 they are 0. A NaN among a row's scores makes its sum NaN.
///
/// Panel n of the scores (32 keys) is at `s[n * stride..]`, a row in it at a pitch of 32; row r of `p`
/// is at `r * panels * 32`. Row r sees the keys `seen(r)` of `panels * 32`; one that has seen none yet keeps a
/// maximum of -∞ and a sum of 0.
///
/// Panics when a slice is too short, or the level has no bf16.
pub fn softmax(
    level: Level,
    factor: f32,
    (s, stride, panels): (&[f32], usize, usize),
    seen: impl Fn(usize) -> Range<usize>,
    rows: Rows<'_>,
    p: &mut [bf16],
) {
    let Rows { max, sum, rescale } = rows;
    let count = max.len();
    assert!(level.has_bf16() && sum.len() == count && rescale.len() == count && panels > 0);
    // By division: `panels · 32` may wrap. No panels of a p that has them do.
    assert!(
        panels <= p.len() / NR && rows_fit(p.len(), panels * NR, count, panels * NR),
        "p too short"
    );
    assert!(rows_fit(s.len(), stride, panels, count * NR), "s too short");
    #[cfg(target_arch = "x86_64")]
    for (r, p) in p.chunks_exact_mut(panels * NR).take(count).enumerate() {
        let Range { start, end } = seen(r);
        let seen = start..end.min(panels * NR);
        let from = &s[r * NR..];
        // SAFETY: the level has the instructions; a row has `panels` panels, `seen` keys in them.
        unsafe {
            x86::row(factor, from, stride, &seen, (&mut max[r], &mut sum[r], &mut rescale[r]), p);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (factor, seen);
}

/// Scores and dP of `keys` keys by 32 queries become P = 2^(factor·s - lse) and dS = P (dP - delta) in
/// bf16, both 0 for queries that don't see a key.
///
/// `lse` is in base 2. Row j of p and ds is at `j * 32`; `seeing(j)` are the queries that see key j.
///
/// Panics when a slice is too short, or the level has no bf16.
#[allow(clippy::too_many_arguments)]
pub fn gradients(
    level: Level,
    factor: f32,
    keys: usize,
    (s, dp): (&Tile, &Tile),
    (lse, delta): (&[f32; NR], &[f32; NR]),
    seeing: impl Fn(usize) -> Range<usize>,
    p: &mut [bf16],
    ds: &mut [bf16],
) {
    assert!(level.has_bf16());
    assert!(keys <= MR && keys <= p.len().min(ds.len()) / NR, "p or ds too short");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the level has the instructions; the slices have `keys` rows.
    unsafe {
        x86::gradients(factor, keys, (s, dp), (lse, delta), seeing, p, ds);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (factor, s, dp, lse, delta, seeing);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use half::bf16;

    use super::{NR, Tile};

    /// 2^y for y ≤ 127, off by less than 2^-18 of itself; 0 below -125.5, NaN stays NaN, 2^0 is 1.
    ///
    /// The polynomial and its bound are those of `math::quick_exp`, twice as large; the number that
    /// rounds y to an integer also makes it the exponent of half the power, which is 0 at the least.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub fn exp2(y: __m512) -> __m512 {
        let round = _mm512_set1_ps(12_582_912.0 + 126.0);
        // The second operand where one is NaN.
        let y = _mm512_max_ps(_mm512_set1_ps(-126.0), y);
        let shifted = _mm512_add_ps(y, round);
        let r = _mm512_sub_ps(y, _mm512_sub_ps(shifted, round));
        let p = _mm512_set1_ps(2.0 * 9.582_87e-3);
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.0 * 5.590_646_7e-2));
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.0 * 2.402_41e-1));
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.0 * 6.931_242e-1));
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.0));
        let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
        _mm512_mul_ps(p, _mm512_castsi512_ps(power))
    }

    /// The bits of 32 that are in `range`.
    #[inline(always)]
    fn bits(range: Range<usize>) -> u32 {
        let from = |bit: usize| u32::MAX.checked_shl(bit.min(NR) as u32).unwrap_or(0);
        from(range.start) & !from(range.end)
    }

    /// One row of [`super::softmax`].
    ///
    /// # Safety
    /// The CPU has these features. From `s` on there are 32 scores every `stride` for all of p's
    /// panels, p is whole panels, `seen` ends at most where they do.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub unsafe fn row(
        factor: f32,
        s: &[f32],
        stride: usize,
        seen: &Range<usize>,
        (max, sum, rescale): (&mut f32, &mut f32, &mut f32),
        p: &mut [bf16],
    ) {
        let panels = seen.start / NR..seen.end.div_ceil(NR);
        // The lanes of panel `n` that are seen.
        let mask = |n: usize| bits(seen.start.saturating_sub(n * NR)..seen.end - n * NR);
        let halves = |mask: u32| [mask as u16, (mask >> 16) as u16];
        // SAFETY: panel `n` of the row.
        let load = |n: usize, half: usize| unsafe {
            _mm512_loadu_ps(s.as_ptr().add(n * stride + half * 16))
        };
        let scale = _mm512_set1_ps(factor);
        let mut largest = [_mm512_set1_ps(*max); 2];
        for n in panels.clone() {
            for (half, mask) in halves(mask(n)).into_iter().enumerate() {
                let y = _mm512_mul_ps(load(n, half), scale);
                // The second operand where one is NaN: it is passed over, and comes back below.
                largest[half] = _mm512_mask_max_ps(largest[half], mask, y, largest[half]);
            }
        }
        let new = _mm512_reduce_max_ps(_mm512_max_ps(largest[0], largest[1]));
        let minus = _mm512_set1_ps(new);
        let mut sums = [_mm512_setzero_ps(); 2];
        let to = p.as_mut_ptr();
        for n in 0..p.len() / NR {
            let mut pair = [_mm512_setzero_ps(); 2];
            if panels.contains(&n) {
                for (half, mask) in halves(mask(n)).into_iter().enumerate() {
                    let y = exp2(_mm512_fmsub_ps(load(n, half), scale, minus));
                    pair[half] = _mm512_maskz_mov_ps(mask, y);
                    sums[half] = _mm512_add_ps(sums[half], pair[half]);
                }
            }
            // SAFETY: panel `n` of p.
            unsafe { store(pair, to.add(n * NR)) };
        }
        *rescale =
            if new == *max { 1.0 } else { _mm512_cvtss_f32(exp2(_mm512_set1_ps(*max - new))) };
        *sum = *sum * *rescale + _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
        *max = new;
    }

    /// See [`super::gradients`].
    ///
    /// # Safety
    /// The CPU has these features; s, dp, p and ds have `keys` rows of 32.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    pub unsafe fn gradients(
        factor: f32,
        keys: usize,
        (s, dp): (&Tile, &Tile),
        (lse, delta): (&[f32; NR], &[f32; NR]),
        seeing: impl Fn(usize) -> Range<usize>,
        p: &mut [bf16],
        ds: &mut [bf16],
    ) {
        // SAFETY: 32 floats each.
        let halves = |from: &[f32; NR]| unsafe {
            [_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(16))]
        };
        let (lse, delta, factor) = (halves(lse), halves(delta), _mm512_set1_ps(factor));
        for key in 0..keys {
            let mask = bits(seeing(key));
            let masks = [mask as u16, (mask >> 16) as u16];
            let (mut probability, mut gradient) = (lse, lse);
            for half in 0..2 {
                let at = key * NR + half * 16;
                // SAFETY: row `key` of both.
                let (s, dp) = unsafe {
                    (_mm512_loadu_ps(s.as_ptr().add(at)), _mm512_loadu_ps(dp.as_ptr().add(at)))
                };
                let y = exp2(_mm512_fmsub_ps(s, factor, lse[half]));
                probability[half] = _mm512_maskz_mov_ps(masks[half], y);
                let slope = _mm512_sub_ps(dp, delta[half]);
                gradient[half] = _mm512_maskz_mul_ps(masks[half], y, slope);
            }
            // SAFETY: row `key` of both.
            unsafe {
                store(probability, p.as_mut_ptr().add(key * NR));
                store(gradient, ds.as_mut_ptr().add(key * NR));
            }
        }
    }

    /// Rounds 32 values.
    ///
    /// # Safety
    /// 32 elements are writable from `to`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn store([low, high]: [__m512; 2], to: *mut bf16) {
        // SAFETY: the caller's promise; both are 512 bits without invalid patterns.
        unsafe {
            let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(to.cast(), both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::Element;
    use crate::device::cpu::simd::product::tile_rows;

    fn levels() -> impl Iterator<Item = Level> {
        Level::available().filter(|level| level.has_bf16())
    }

    /// The probabilities of one row of whole panels whose keys from `first` on are seen, and its (maximum, sum, rescaling) after a maximum of
    /// `before` and a sum of 1.
    fn row(
        level: Level,
        s: &[f32],
        first: usize,
        factor: f32,
        before: f32,
    ) -> (Vec<f32>, [f32; 3]) {
        let (mut max, mut sum, mut rescale) = ([before], [1.0], [f32::NAN]);
        let mut p = vec![bf16::NAN; s.len().next_multiple_of(NR)];
        let mut padded = s.to_vec();
        padded.resize(p.len(), f32::NAN);
        let rows = Rows { max: &mut max, sum: &mut sum, rescale: &mut rescale };
        let panels = p.len() / NR;
        softmax(level, factor, (&padded, NR, panels), |_| first..s.len(), rows, &mut p);
        (p.iter().map(|p| p.to_f32()).collect(), [max[0], sum[0], rescale[0]])
    }

    #[test]
    fn a_row_is_its_softmax_and_nothing_that_it_does_not_see() {
        for level in levels() {
            let lens = [1, 15, 16, 17, 31, 32, 33, 64, 95, 100].map(|len| (0, len));
            let windows = [(1, 9), (3, 40), (16, 33), (31, 32), (32, 64), (33, 100), (64, 95)];
            for (first, len) in lens.into_iter().chain(windows) {
                let mut s: Vec<f32> =
                    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.37).collect();
                // What a row does not see may be anything.
                s[..first].fill(f32::NAN);
                for (factor, before) in
                    [(0.18, -1e30), (0.18, 100.0), (-0.2, 0.0), (0.7, f32::NEG_INFINITY)]
                {
                    let (p, [max, sum, rescale]) = row(level, &s, first, factor, before);
                    let scores: Vec<f32> = s[first..].iter().map(|s| s * factor).collect();
                    let want_max = scores.iter().copied().fold(before, f32::max);
                    assert_eq!(max, want_max);
                    let power = |y: f32| f64::from(y - max).exp2();
                    let close = |got: f64, want: f64, bits: i32| {
                        (got - want).abs() <= want * 2f64.powi(bits) + f64::from(f32::MIN_POSITIVE)
                    };
                    assert!(close(rescale.into(), power(before), -17), "{rescale}");
                    let total: f64 = scores.iter().map(|&y| power(y)).sum();
                    assert!(close(sum.into(), total + f64::from(rescale), -16), "{sum} {total}");
                    for (i, &p) in p.iter().enumerate() {
                        let seen = (first..len).contains(&i);
                        let want = if seen { power(scores[i - first]) } else { 0.0 };
                        assert!(close(p.into(), want, -8), "{i} of {len}: {p} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn exponentials_at_their_edges() {
        for level in levels() {
            let s = [0.0, -125.4, -125.6, -1e30, f32::NEG_INFINITY];
            let (p, [_, sum, rescale]) = row(level, &s, 0, 1.0, f32::NEG_INFINITY);
            assert_eq!(p[0], 1.0);
            assert!(p[1] > 0.0 && f64::from(p[1]) < 2f64.powi(-125));
            assert_eq!(p[2..5], [0.0; 3]);
            // Nothing was summed before the first tile.
            assert_eq!((sum, rescale), (1.0, 0.0));
            let (p, [max, sum, _]) = row(level, &[1.0, f32::NAN, 2.0], 0, 1.0, 0.0);
            assert!(max == 2.0 && sum.is_nan() && p[1].is_nan() && p[0] == 0.5);
            // A row that sees nothing, and has seen nothing before: rows of its tile may.
            let (p, [max, _, rescale]) = row(level, &[3.0; 40], 40, 1.0, f32::NEG_INFINITY);
            assert!(p.iter().all(|&p| p == 0.0) && max == f32::NEG_INFINITY && rescale == 1.0);
        }
    }

    #[test]
    fn gradients_are_p_and_p_times_the_slope() {
        let value = |i: usize, by: f32| ((i * 53 % 97) as f32 - 48.0) * by;
        let (mut s, mut dp) = ([0.0; MR * NR], [0.0; MR * NR]);
        for i in 0..s.len() {
            (s[i], dp[i]) = (value(i, 0.11), value(i + 5, 0.03));
        }
        let lse: [f32; NR] = std::array::from_fn(|i| 1.0 + i as f32 * 0.25);
        let delta: [f32; NR] = std::array::from_fn(|i| value(i, 0.01));
        for level in levels() {
            let keys = tile_rows(level);
            // What queries do not see may be anything.
            s[3 * NR] = f32::NAN;
            let seeing = |key: usize| match key {
                5 => 40..70,
                _ => key * 3 % 34..if key.is_multiple_of(2) { 50 } else { key * 5 % 36 },
            };
            let mut p = vec![bf16::NAN; keys * NR];
            let mut ds = p.clone();
            gradients(level, 0.3, keys, (&s, &dp), (&lse, &delta), seeing, &mut p, &mut ds);
            for i in 0..keys * NR {
                let (key, r) = (i / NR, i % NR);
                let seen = seeing(key).contains(&r);
                let want_p = if seen { f64::from(s[i] * 0.3 - lse[r]).exp2() } else { 0.0 };
                let want_ds = if seen { want_p * f64::from(dp[i] - delta[r]) } else { 0.0 };
                for (got, want) in [(p[i], want_p), (ds[i], want_ds)] {
                    let error = (f64::from(Element::to_f32(got)) - want).abs();
                    assert!(error <= want.abs() * 2f64.powi(-8), "{key}, {r}: {got} for {want}");
                }
            }
        }
    }
}
