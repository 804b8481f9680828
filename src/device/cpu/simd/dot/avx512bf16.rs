//! The sums for few rows with AVX-512, VBMI and BF16.

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
pub unsafe fn nf4<const M: usize>(
    nf4: &Nf4Codes<impl Fn(usize, &mut [f32])>,
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
    let mut acc: [[__m512; 2]; M] = std::array::from_fn(|r| load(&sums[r]));
    let mut scales = [[0f32; NR]; SCALES];
    let mut of_row = [0f32; SCALES];
    for first in (0..blocks).step_by(SCALES) {
        let count = SCALES.min(blocks - first);
        for (j, row) in row.iter().enumerate() {
            (nf4.scale)(row * blocks + first, &mut of_row[..count]);
            for (scales, of_row) in scales.iter_mut().zip(&of_row[..count]) {
                scales[j] = *of_row;
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
                        // SAFETY: two columns of a row that is there.
                        let x = unsafe { pair(x, r, 2 * byte + 16 * q + 2 * p) };
                        for (acc, w) in acc.iter_mut().zip(w) {
                            *acc = _mm512_dpbf16_ps(*acc, w, x);
                        }
                    }
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
pub unsafe fn rows<const M: usize>(
    w: *const bf16,
    rows: usize,
    k: usize,
    x: Left,
    sums: &mut Sums,
) {
    let mut acc: [[__m512; 2]; M] = std::array::from_fn(|r| load(&sums[r]));
    for first in (0..k / 2).step_by(16) {
        let count = (k / 2 - first).min(16);
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
                    // SAFETY: two columns of a row that is there.
                    let x = unsafe { pair(x, r, 2 * (first + i)) };
                    acc[half] = _mm512_dpbf16_ps(acc[half], as_bh(w), x);
                }
            };
            match count {
                16 => turned.into_iter().enumerate().for_each(|(i, w)| step(i, w)),
                _ => turned[..count].iter().enumerate().for_each(|(i, &w)| step(i, w)),
            }
        }
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

/// Elements `i` and `i + 1` of row `r` of x, in each lane.
///
/// # Safety
/// They are there; the CPU has the features.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn pair(x: Left, r: usize, i: usize) -> __m512bh {
    // SAFETY: the caller's promise.
    let pair = unsafe { x.data.as_ptr().add(r * x.ld + i).cast::<i32>().read_unaligned() };
    as_bh(_mm512_set1_epi32(pair))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(sums: &[f32; NR]) -> [__m512; 2] {
    // SAFETY: 32 floats.
    unsafe { [_mm512_loadu_ps(sums.as_ptr()), _mm512_loadu_ps(sums.as_ptr().add(16))] }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(acc: &[__m512; 2], sums: &mut [f32; NR]) {
    // SAFETY: 32 floats.
    unsafe {
        _mm512_storeu_ps(sums.as_mut_ptr(), acc[0]);
        _mm512_storeu_ps(sums.as_mut_ptr().add(16), acc[1]);
    }
}

#[inline(always)]
fn as_bh(x: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}
