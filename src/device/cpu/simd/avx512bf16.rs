//! The shared primitives with AVX-512 and its BF16 dot product.
//!
//! Every function here needs the features that `has_avx512bf16` tests.

use std::arch::x86_64::*;

use half::bf16;

use super::avx512f::{Decoder, by_rows, look_up_words, nf4_nn, nf4_nt};
pub use super::avx512f::{nf4_nn_f32, nf4_nt_f32, pack_nt, pair_rows, tile_f32};
use super::{NR, Nf4Codes, Segment};

/// [`super::GemmElement::tile`] for bf16, with dot products of pairs.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; super::MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, tile, segments, out) }
}

/// `MR` rows by 32 columns: 2·MR accumulators stay in registers over all segments.
///
/// # Safety
/// As `simd::tile`; the CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn tile<const MR: usize>(segments: &[Segment<bf16>], out: &mut [f32; super::MR * NR]) {
    let mut acc = [[_mm512_setzero_ps(); 2]; MR];
    for segment in segments {
        let mut panel = segment.panel.cast::<u8>();
        for pair in 0..segment.k / 2 {
            // SAFETY: the panel holds ceil(k / 2) rows of 128 bytes, row `r` of `a` holds k elements.
            unsafe {
                let b0 = _mm512_loadu_ps(panel.cast());
                let b1 = _mm512_loadu_ps(panel.add(64).cast());
                panel = panel.add(128);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = segment.a.add(r * segment.lda + 2 * pair).cast::<i32>();
                    let a = as_bh(_mm512_set1_epi32(a.read_unaligned()));
                    acc[0] = _mm512_dpbf16_ps(acc[0], a, as_bh(_mm512_castps_si512(b0)));
                    acc[1] = _mm512_dpbf16_ps(acc[1], a, as_bh(_mm512_castps_si512(b1)));
                }
            }
        }
        if segment.k % 2 == 1 {
            // SAFETY: as above; the last element of a row stands alone, its partner is zero on
            // both sides (the panel is padded with zeros).
            unsafe {
                let b0 = _mm512_loadu_ps(panel.cast());
                let b1 = _mm512_loadu_ps(panel.add(64).cast());
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = segment.a.add(r * segment.lda + segment.k - 1).read();
                    let a = as_bh(_mm512_set1_epi32(a.to_bits() as i32));
                    acc[0] = _mm512_dpbf16_ps(acc[0], a, as_bh(_mm512_castps_si512(b0)));
                    acc[1] = _mm512_dpbf16_ps(acc[1], a, as_bh(_mm512_castps_si512(b1)));
                }
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        // SAFETY: MR ≤ 12 rows of 32 floats.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr().add(r * NR), acc[0]);
            _mm512_storeu_ps(out.as_mut_ptr().add(r * NR + 16), acc[1]);
        }
    }
}

/// [`super::GemmElement::narrow_tile`] for bf16.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn narrow_tile_bf16(
    rows: usize,
    segments: &[Segment<bf16>],
    out: &mut [f32; super::MR * NR],
) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, narrow_tile, segments, out) }
}

/// The first 16 columns of [`tile`]: `MR` sums, one load and `MR` broadcasts a pair.
///
/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn narrow_tile<const MR: usize>(
    segments: &[Segment<bf16>],
    out: &mut [f32; super::MR * NR],
) {
    let mut acc = [_mm512_setzero_ps(); MR];
    for segment in segments {
        for pair in 0..segment.k.div_ceil(2) {
            // SAFETY: the panel holds ceil(k / 2) rows of 128 bytes, row `r` of `a` holds k elements;
            // the partner of an odd last one is a zero on both sides.
            unsafe {
                let b =
                    as_bh(_mm512_loadu_si512(segment.panel.cast::<u32>().add(pair * NR).cast()));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = segment.a.add(r * segment.lda + 2 * pair).cast::<u16>();
                    let a = match 2 * pair + 1 < segment.k {
                        true => a.cast::<i32>().read_unaligned(),
                        false => i32::from(a.read()),
                    };
                    *acc = _mm512_dpbf16_ps(*acc, as_bh(_mm512_set1_epi32(a)), b);
                }
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        // SAFETY: MR ≤ 12 rows of 32 floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(r * NR), *acc) };
    }
}

#[inline(always)]
fn as_bh(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}

#[inline(always)]
fn from_bh(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}

/// To bf16 with the CPU's conversion. The table holds everything twice.
struct ToBf16;

impl Decoder for ToBf16 {
    const REGISTERS: usize = 1;

    #[inline(always)]
    unsafe fn table(codebook: __m512, scale: f32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let values = _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
            from_bh(_mm512_cvtne2ps_pbh(values, values))
        }
    }

    #[inline(always)]
    unsafe fn look_up(bytes: __m128i, table: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe { look_up_words(bytes, table) }
    }
}

/// [`super::GemmElement::decode_nt`] for bf16.
///
/// # Safety
/// As [`super::GemmElement::decode_nt`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn nf4_nt_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nt::<ToBf16, S>(nf4, row0, rows, panel.as_mut_ptr().cast()) }
}

/// [`super::GemmElement::decode_nn`] for bf16.
///
/// # Safety
/// As [`super::GemmElement::decode_nn`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn nf4_nn_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    _cols: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nn::<ToBf16, S>(nf4, col0, panel.as_mut_ptr().cast()) }
}

/// Scales 32 f32 and rounds them to bf16.
///
/// # Safety
/// The CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn store_bf16(tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
    let scale = _mm512_set1_ps(scale);
    // SAFETY: 32 elements on both sides.
    unsafe {
        let low = _mm512_mul_ps(_mm512_loadu_ps(tile.as_ptr()), scale);
        let high = _mm512_mul_ps(_mm512_loadu_ps(tile.as_ptr().add(16)), scale);
        _mm512_storeu_si512(out.as_mut_ptr().cast(), from_bh(_mm512_cvtne2ps_pbh(high, low)));
    }
}

/// Dot products on 24 registers; see [`super::multiply_chains`].
///
/// # Safety
/// The CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn multiply_chains(rounds: usize) -> usize {
    const CHAINS: usize = 24;
    let mut acc = [_mm512_setzero_ps(); CHAINS];
    let one = std::hint::black_box(_mm512_set1_epi32(0x3f80_3f80));
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm512_dpbf16_ps(*acc, as_bh(one), as_bh(one));
        }
    }
    std::hint::black_box(acc);
    rounds * CHAINS * 32
}
