//! The sums for few rows with AVX-512, VBMI and BF16.
//!
//! `TILES` is how a sum runs: with the dot product of pairs, pair after pair; or as AMX sums, so that its
//! tiles and these give the same bits. AMX takes 32 elements at a time, adds up the even and the odd ones
//! apart, each with one rounding a product, and then both to the sum.

use std::arch::x86_64::*;

use half::bf16;

use super::{Left, NR, Nf4Codes, Sums};

/// Codes of a block, and their bytes.
const BLOCK: usize = 64;
const BLOCK_BYTES: usize = BLOCK / 2;
/// Blocks of each row whose scales are looked up together.
const SCALES: usize = 32;

/// Where the codes `2p` (a byte's high nibble) and `2p + 1` of a quadword begin, for its two doublewords.
const fn places() -> [[u8; 64]; 8] {
    let mut places = [[0; 64]; 8];
    let mut i = 0;
    while i < 64 {
        let (p, quadword) = (i / 8, i % 8);
        places[p][8 * quadword] = 8 * p as u8 + 4;
        places[p][8 * quadword + 4] = 8 * p as u8;
        i += 1;
    }
    places
}
static PLACES: [[u8; 64]; 8] = places();

/// `super::add_nf4` for `M` rows of x.
///
/// Two sums of 16 features a row of x. A register holds 16 codes of eight features, a quadword
/// each; per pair of codes one shift brings both into place for the look-up, whose products with the
/// features' scales are rounded to the pairs that the dot product takes.
///
/// # Safety
/// `1..=32` rows; x holds M rows of `cols`, a multiple of 64; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16")]
pub unsafe fn nf4<const M: usize, const TILES: bool>(
    nf4: &Nf4Codes<impl Fn(usize) -> f32>,
    row0: usize,
    rows: usize,
    x: Left,
    sums: &mut Sums,
) {
    let cols = nf4.cols;
    let (blocks, pitch) = (cols / BLOCK, cols / 2);
    // Features beyond the last row repeat it; nobody reads their sums.
    let row: [usize; NR] = std::array::from_fn(|j| row0 + j.min(rows - 1));
    let start = row.map(|row| nf4.codes[row * pitch..(row + 1) * pitch].as_ptr());
    let ahead = start[0].wrapping_add(NR * pitch);
    // SAFETY: 16 floats; 64 bytes.
    let (codebook, places): (_, [__m512i; 8]) = unsafe {
        let places = std::array::from_fn(|p| _mm512_loadu_si512(PLACES[p].as_ptr().cast()));
        (_mm512_loadu_ps(nf4.codebook.as_ptr()), places)
    };
    let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    let mut acc: [[Sum<TILES>; 2]; M] = std::array::from_fn(|r| load(&sums[r]));
    let mut scales = [[0f32; NR]; SCALES];
    for first in (0..blocks).step_by(SCALES) {
        let count = SCALES.min(blocks - first);
        for (j, row) in row.iter().enumerate() {
            for (b, scales) in scales[..count].iter_mut().enumerate() {
                scales[j] = (nf4.scale)(row * blocks + first + b);
            }
        }
        for (b, scales) in scales[..count].iter().enumerate() {
            let byte = BLOCK_BYTES * (first + b);
            for line in 0..NR * BLOCK_BYTES / 64 {
                let next = ahead.wrapping_add(NR * byte + 64 * line);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            let eights: [__m512; 4] = std::array::from_fn(|h| {
                // SAFETY: eight of 32 floats.
                let eight = unsafe { _mm256_loadu_ps(scales.as_ptr().add(8 * h)) };
                _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(eight))
            });
            // codes[q][h]: the block's codes from 16·q, of the features from 8·h.
            let mut codes = [[_mm512_setzero_si512(); 4]; 4];
            for h in 0..4 {
                let start = &start[8 * h..8 * h + 8];
                // SAFETY: `byte` and 32 more are inside the rows' bytes.
                let quarters = unsafe { quarters(start, byte) };
                for (codes, quarter) in codes.iter_mut().zip(quarters) {
                    codes[h] = quarter;
                }
            }
            // SAFETY: a block's columns are inside the rows.
            let x = unsafe { Columns::<M, BLOCK>::new::<TILES>(x, 2 * byte, BLOCK) };
            for (q, codes) in codes.iter().enumerate() {
                for (p, &place) in places.iter().enumerate() {
                    let value = |h: usize| {
                        let code = _mm512_multishift_epi64_epi8(place, codes[h]);
                        _mm512_mul_ps(_mm512_permutexvar_ps(code, codebook), eights[h])
                    };
                    let w = [
                        _mm512_cvtne2ps_pbh(value(1), value(0)),
                        _mm512_cvtne2ps_pbh(value(3), value(2)),
                    ];
                    for (r, acc) in acc.iter_mut().enumerate() {
                        for (acc, w) in acc.iter_mut().zip(w) {
                            // SAFETY: two of the columns, of a row that is there.
                            unsafe { acc.add(w, &x, r, 16 * q + 2 * p) };
                        }
                    }
                }
                if q % 2 == 1 {
                    acc.iter_mut().flatten().for_each(|sum| sum.end_tile());
                }
            }
        }
    }
    for (acc, sums) in acc.iter().zip(sums) {
        store(acc, sums);
    }
}

/// 32 bytes each of eight rows; quadword `i` of result `q` is quadword `q` of row `i`.
///
/// # Safety
/// 32 bytes from `byte` on are readable from each of the eight; the CPU has the features.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16")]
unsafe fn quarters(start: &[*const u8], byte: usize) -> [__m512i; 4] {
    let two = |low: usize, high: usize| {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe {
            let load = |row: *const u8| _mm256_loadu_si256(row.add(byte).cast());
            (load(start[low]), load(start[high]))
        };
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
    };
    let (a, b, c, d) = (two(0, 2), two(1, 3), two(4, 6), two(5, 7));
    let even = [_mm512_unpacklo_epi64(a, b), _mm512_unpacklo_epi64(c, d)];
    let odd = [_mm512_unpackhi_epi64(a, b), _mm512_unpackhi_epi64(c, d)];
    [
        _mm512_shuffle_i64x2::<0x88>(even[0], even[1]),
        _mm512_shuffle_i64x2::<0x88>(odd[0], odd[1]),
        _mm512_shuffle_i64x2::<0xdd>(even[0], even[1]),
        _mm512_shuffle_i64x2::<0xdd>(odd[0], odd[1]),
    ]
}

/// `super::add_bf16` for `M` rows of x: squares of 16 rows by 16 pairs are turned, so that a register
/// holds one pair of 16 features.
///
/// # Safety
/// `1..=32` rows of `k` elements without gaps are readable from `w`, k even; x holds M rows of k; the
/// CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn rows<const M: usize, const TILES: bool>(
    w: *const bf16,
    rows: usize,
    k: usize,
    x: Left,
    sums: &mut Sums,
) {
    let mut acc: [[Sum<TILES>; 2]; M] = std::array::from_fn(|r| load(&sums[r]));
    for first in (0..k / 2).step_by(16) {
        let count = (k / 2 - first).min(16);
        // SAFETY: these columns are inside the rows.
        let x = unsafe { Columns::<M, 32>::new::<TILES>(x, 2 * first, 2 * count) };
        let mask = u16::MAX >> (16 - count);
        for half in 0..2 {
            let square: [__m512i; 16] = std::array::from_fn(|j| {
                // Features beyond the last row repeat it; nobody reads their sums.
                let line = w.wrapping_add((16 * half + j).min(rows - 1) * k + 2 * first);
                _mm_prefetch::<_MM_HINT_T1>(line.wrapping_add(NR * k).cast());
                // SAFETY: `count` pairs of a row.
                unsafe { _mm512_maskz_loadu_epi32(mask, line.cast()) }
            });
            let turned = turn(&square);
            let mut step = |i: usize, w: __m512i| {
                for (r, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: two of the columns, of a row that is there.
                    unsafe { acc[half].add(as_bh(w), &x, r, 2 * i) };
                }
            };
            match count {
                16 => turned.into_iter().enumerate().for_each(|(i, w)| step(i, w)),
                _ => turned[..count].iter().enumerate().for_each(|(i, &w)| step(i, w)),
            }
        }
        acc.iter_mut().flatten().for_each(|sum| sum.end_tile());
    }
    for (acc, sums) in acc.iter().zip(sums) {
        store(acc, sums);
    }
}

/// Transposes 16 rows of 16 doublewords in registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn turn(rows: &[__m512i; 16]) -> [__m512i; 16] {
    // Doublewords, then quadwords, within the 128-bit lanes; then the lanes themselves, twice.
    let mut t = [_mm512_setzero_si512(); 16];
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut u = [_mm512_setzero_si512(); 16];
    for i in 0..4 {
        u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // u[4g + c], lane l holds column 4l + c of rows 4g .. 4g + 4.
    let mut out = [_mm512_setzero_si512(); 16];
    for c in 0..4 {
        let even = [
            _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]),
            _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]),
        ];
        let odd = [
            _mm512_shuffle_i32x4::<0xdd>(u[c], u[4 + c]),
            _mm512_shuffle_i32x4::<0xdd>(u[8 + c], u[12 + c]),
        ];
        out[c] = _mm512_shuffle_i32x4::<0x88>(even[0], even[1]);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd[0], odd[1]);
        out[8 + c] = _mm512_shuffle_i32x4::<0xdd>(even[0], even[1]);
        out[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd[0], odd[1]);
    }
    out
}

/// Some columns of x, from which pairs are broadcast: where they lie, and widened if f32 are multiplied.
struct Columns<const M: usize, const N: usize> {
    pairs: *const bf16,
    ld: usize,
    wide: [[f32; N]; M],
}

impl<const M: usize, const N: usize> Columns<M, N> {
    /// `count` ≤ N columns of M rows from column `first`.
    ///
    /// # Safety
    /// They are inside x; the CPU has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn new<const TILES: bool>(x: Left, first: usize, count: usize) -> Self {
        let mut columns =
            Self { pairs: x.data.as_ptr().wrapping_add(first), ld: x.ld, wide: [[0.0; N]; M] };
        if TILES {
            for (r, wide) in columns.wide.iter_mut().enumerate() {
                for at in (0..count).step_by(16) {
                    let mask = u16::MAX >> (16 - (count - at).min(16));
                    // SAFETY: as many elements as the mask has of row r; N is a multiple of 16.
                    unsafe {
                        let from = columns.pairs.add(r * x.ld + at);
                        let words =
                            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                        let words = _mm512_slli_epi32::<16>(words);
                        _mm512_storeu_si512(wide.as_mut_ptr().add(at).cast(), words);
                    }
                }
            }
        }
        columns
    }
}

/// A sum in each of 16 lanes.
#[derive(Clone, Copy)]
struct Sum<const TILES: bool> {
    whole: __m512,
    /// Where sums run as AMX's: of the even and of the odd elements of this tile.
    parts: [__m512; 2],
}

impl<const TILES: bool> Sum<TILES> {
    /// Adds the products of `w`'s pairs with elements `i` and `i + 1` of row `r` of the columns.
    ///
    /// # Safety
    /// They are there; the CPU has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn add<const M: usize, const N: usize>(
        &mut self,
        w: __m512bh,
        x: &Columns<M, N>,
        r: usize,
        i: usize,
    ) {
        if TILES {
            let w = from_bh(w);
            let even = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(w));
            let odd = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(!0xffff)));
            let x = &x.wide[r];
            self.parts[0] = _mm512_fmadd_ps(even, _mm512_set1_ps(x[i]), self.parts[0]);
            self.parts[1] = _mm512_fmadd_ps(odd, _mm512_set1_ps(x[i + 1]), self.parts[1]);
        } else {
            // SAFETY: the caller's promise.
            let pair = unsafe { x.pairs.add(r * x.ld + i).cast::<i32>().read_unaligned() };
            self.whole = _mm512_dpbf16_ps(self.whole, w, as_bh(_mm512_set1_epi32(pair)));
        }
    }

    /// Ends a stretch of 32 elements.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn end_tile(&mut self) {
        if TILES {
            self.whole = _mm512_add_ps(self.whole, _mm512_add_ps(self.parts[0], self.parts[1]));
            self.parts = [_mm512_setzero_ps(); 2];
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<const TILES: bool>(sums: &[f32; NR]) -> [Sum<TILES>; 2] {
    let parts = [_mm512_setzero_ps(); 2];
    // SAFETY: 32 floats.
    let halves =
        unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] };
    halves.map(|whole| Sum { whole, parts })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const TILES: bool>(acc: &[Sum<TILES>; 2], sums: &mut [f32; NR]) {
    // SAFETY: 32 floats.
    unsafe {
        _mm512_storeu_ps(sums.as_mut_ptr(), acc[0].whole);
        _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1].whole);
    }
}

#[inline(always)]
fn from_bh(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}

#[inline(always)]
fn as_bh(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}
