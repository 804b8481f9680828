//! The shared primitives with AVX-512 and its BF16 dot product.
//!
//! Every function here needs the features that `has_avx512bf16` tests.

use std::arch::x86_64::*;

use half::bf16;

use super::{NR, Segment};

/// `MR` rows by 32 columns: 2·MR accumulators stay in registers over all segments.
///
/// # Safety
/// As `simd::tile`; the CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn tile_bf16<const MR: usize>(
    segments: &[Segment<bf16>],
    out: &mut [f32; super::MR * NR],
) {
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

/// The f32 tile: as `tile_bf16`, one element of k at a time.
///
/// # Safety
/// As `simd::tile`; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,fma")]
pub unsafe fn tile_f32<const MR: usize>(
    segments: &[Segment<f32>],
    out: &mut [f32; super::MR * NR],
) {
    let mut acc = [[_mm512_setzero_ps(); 2]; MR];
    for segment in segments {
        for k in 0..segment.k {
            // SAFETY: the panel holds k rows of 32 floats, row `r` of `a` holds k elements.
            unsafe {
                let b0 = _mm512_loadu_ps(segment.panel.add(k * NR));
                let b1 = _mm512_loadu_ps(segment.panel.add(k * NR + 16));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let a = _mm512_set1_ps(segment.a.add(r * segment.lda + k).read());
                    acc[0] = _mm512_fmadd_ps(a, b0, acc[0]);
                    acc[1] = _mm512_fmadd_ps(a, b1, acc[1]);
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

/// Transposes 16 rows of 16 dwords: dword `i` of row `j` goes to `out[i * stride + j]`.
///
/// # Safety
/// `out` is writable for 15 · stride + 16 dwords; the CPU has AVX-512 F.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn transpose_16x16(rows: &[__m512i; 16], out: *mut u32, stride: usize) {
    // Dwords, then quadwords, within the 128-bit lanes; then the lanes themselves, twice.
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
    for c in 0..4 {
        let even01 = _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]);
        let odd01 = _mm512_shuffle_i32x4::<0xdd>(u[c], u[4 + c]);
        let even23 = _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]);
        let odd23 = _mm512_shuffle_i32x4::<0xdd>(u[8 + c], u[12 + c]);
        // even01: lanes (g0 l0, g0 l2, g1 l0, g1 l2); odd01: (g0 l1, g0 l3, g1 l1, g1 l3).
        let columns = [
            (c, _mm512_shuffle_i32x4::<0x88>(even01, even23)),
            (4 + c, _mm512_shuffle_i32x4::<0x88>(odd01, odd23)),
            (8 + c, _mm512_shuffle_i32x4::<0xdd>(even01, even23)),
            (12 + c, _mm512_shuffle_i32x4::<0xdd>(odd01, odd23)),
        ];
        for (column, value) in columns {
            // SAFETY: column ≤ 15, within what the caller promised.
            unsafe { _mm512_storeu_si512(out.add(column * stride).cast(), value) };
        }
    }
}

/// Packs full 16-dword columns of rows into a panel (the "nt" direction), for the first
/// `dwords / 16 * 16` dwords of each of 32 rows. Rows `j >= rows` are packed as zeros.
///
/// # Safety
/// `rows` ≤ 32 rows of `dwords` dwords at a pitch of `pitch` bytes are readable from `data`; `panel`
/// is writable for `dwords` · 32 dwords; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn pack_nt(data: *const u8, pitch: usize, rows: usize, dwords: usize, panel: *mut u32) {
    for chunk in 0..dwords / 16 {
        for half in 0..2 {
            let mut block = [_mm512_setzero_si512(); 16];
            for (j, value) in block.iter_mut().enumerate() {
                let row = 16 * half + j;
                if row < rows {
                    // SAFETY: promised by the caller.
                    *value =
                        unsafe { _mm512_loadu_si512(data.add(row * pitch + 64 * chunk).cast()) };
                }
            }
            // SAFETY: dword rows 16·chunk .. +16 of the panel, columns 16·half .. +16.
            unsafe { transpose_16x16(&block, panel.add(16 * chunk * NR + 16 * half), NR) };
        }
    }
}

/// Packs two bf16 rows of 32 into one row of pairs (the "nn" direction).
///
/// # Safety
/// `row0` and `row1` are readable and `panel` writable for 32 and 64 elements; AVX-512 BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn interleave(row0: *const bf16, row1: *const bf16, panel: *mut bf16) {
    // SAFETY: promised by the caller.
    unsafe {
        let pairs =
            interleave_zmm(_mm512_loadu_si512(row0.cast()), _mm512_loadu_si512(row1.cast()));
        _mm512_storeu_si512(panel.cast(), pairs[0]);
        _mm512_storeu_si512(panel.add(32).cast(), pairs[1]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn interleave_zmm(row0: __m512i, row1: __m512i) -> [__m512i; 2] {
    const fn index(first: u16) -> [u16; 32] {
        let mut index = [0; 32];
        let mut i = 0;
        while i < 16 {
            index[2 * i] = first + i as u16;
            index[2 * i + 1] = 32 + first + i as u16;
            i += 1;
        }
        index
    }
    const LOW: [u16; 32] = index(0);
    const HIGH: [u16; 32] = index(16);
    // SAFETY: the constants are 64 bytes each.
    let (low, high) = unsafe {
        (_mm512_loadu_si512(LOW.as_ptr().cast()), _mm512_loadu_si512(HIGH.as_ptr().cast()))
    };
    [_mm512_permutex2var_epi16(row0, low, row1), _mm512_permutex2var_epi16(row0, high, row1)]
}

/// Decodes 32 NF4 codes (16 bytes) to f32: code value times scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn decode_32(bytes: __m128i, scale: f32, codebook: __m512) -> [__m512; 2] {
    let mask = _mm_set1_epi8(15);
    let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
    let low = _mm_and_si128(bytes, mask);
    // Element 2j is the high nibble of byte j.
    let first = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, low));
    let second = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(high, low));
    let scale = _mm512_set1_ps(scale);
    [
        _mm512_mul_ps(_mm512_permutexvar_ps(first, codebook), scale),
        _mm512_mul_ps(_mm512_permutexvar_ps(second, codebook), scale),
    ]
}

/// The 16 values that the codes of one block stand for, as bf16: `round(codebook · scale)`, one
/// rounding, twice over to fill the register.
///
/// A block has 64 codes and 16 values, so the values are multiplied and rounded, not the codes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn table_bf16(scale: f32, codebook: __m512) -> __m512i {
    let values = _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
    from_bh(_mm512_cvtne2ps_pbh(values, values))
}

/// Looks 32 NF4 codes up in a block's table.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn look_up_32(bytes: __m128i, table: __m512i) -> __m512i {
    // Word 2j takes the high nibble of byte j, word 2j + 1 the low one. The look-up reads five bits
    // of a word; the fifth does not matter, since the table holds everything twice.
    let bytes = _mm512_cvtepu8_epi32(bytes);
    let words = _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes));
    _mm512_permutexvar_epi16(words, table)
}

/// Decodes rows `row0 .. row0 + rows` (≤ 32) of an NF4 matrix into an "nt" panel of bf16 pairs.
/// `cols % 64 == 0`, so that 32 elements never straddle a block.
///
/// # Safety
/// `codes` covers those rows; `panel` is writable for `cols` · 32 elements; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn nf4_nt_bf16<S: Fn(usize) -> f32>(
    codes: &[u8],
    cols: usize,
    row0: usize,
    rows: usize,
    scale: &S,
    codebook: &[f32; 16],
    panel: *mut bf16,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(codebook.as_ptr()) };
    // A block of 64 at a time, so that each scale is looked up once.
    for block in 0..cols / 64 {
        for half in 0..2 {
            let mut first = [_mm512_setzero_si512(); 16];
            let mut second = first;
            for (j, (first, second)) in first.iter_mut().zip(&mut second).enumerate() {
                let row = 16 * half + j;
                if row < rows {
                    let index = (row0 + row) * (cols / 64) + block;
                    let table = table_bf16(scale(index), codebook);
                    let bytes = &codes[32 * index..32 * index + 32];
                    // SAFETY: 32 bytes, just sliced.
                    unsafe {
                        let bytes = bytes.as_ptr();
                        let low = _mm_loadu_si128(bytes.cast());
                        let high = _mm_loadu_si128(bytes.add(16).cast());
                        *first = look_up_32(low, table);
                        *second = look_up_32(high, table);
                    }
                }
            }
            // SAFETY: pairs 32·block .. +32 of the panel, columns 16·half .. +16.
            unsafe {
                let panel = panel.cast::<u32>().add(32 * block * NR + 16 * half);
                transpose_16x16(&first, panel, NR);
                transpose_16x16(&second, panel.add(16 * NR), NR);
            };
        }
    }
}

/// As `nf4_nt_bf16`, in f32.
///
/// # Safety
/// As `nf4_nt_bf16`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn nf4_nt_f32<S: Fn(usize) -> f32>(
    codes: &[u8],
    cols: usize,
    row0: usize,
    rows: usize,
    scale: &S,
    codebook: &[f32; 16],
    panel: *mut f32,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(codebook.as_ptr()) };
    for chunk in 0..cols / 32 {
        for half in 0..2 {
            let [mut low, mut high] = [[_mm512_setzero_si512(); 16]; 2];
            for (j, (low, high)) in low.iter_mut().zip(&mut high).enumerate() {
                let row = 16 * half + j;
                if row < rows {
                    let element = (row0 + row) * cols + 32 * chunk;
                    let bytes = &codes[element / 2..element / 2 + 16];
                    // SAFETY: 16 bytes, just sliced.
                    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
                    let [first, second] = decode_32(bytes, scale(element / 64), codebook);
                    *low = _mm512_castps_si512(first);
                    *high = _mm512_castps_si512(second);
                }
            }
            for (part, block) in [&low, &high].into_iter().enumerate() {
                let k = 32 * chunk + 16 * part;
                // SAFETY: rows k .. k + 16 of the panel, columns 16·half .. +16.
                unsafe { transpose_16x16(block, panel.cast::<u32>().add(k * NR + 16 * half), NR) };
            }
        }
    }
}

/// Decodes columns `col0 .. col0 + 32` of all rows of an NF4 matrix into an "nn" panel of bf16
/// pairs (rows `n`, `n + 1`); a last odd row is paired with zeros. `cols % 64 == 0`.
///
/// # Safety
/// `panel` is writable for ceil(rows / 2) · 64 elements; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn nf4_nn_bf16<S: Fn(usize) -> f32>(
    codes: &[u8],
    cols: usize,
    rows: usize,
    col0: usize,
    scale: &S,
    codebook: &[f32; 16],
    panel: *mut bf16,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(codebook.as_ptr()) };
    let decode = |row: usize| {
        let element = row * cols + col0;
        let bytes = &codes[element / 2..element / 2 + 16];
        // SAFETY: 16 bytes, just sliced; the features are this function's.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            look_up_32(bytes, table_bf16(scale(element / 64), codebook))
        }
    };
    for pair in 0..rows.div_ceil(2) {
        let row0 = decode(2 * pair);
        let row1 = if 2 * pair + 1 < rows { decode(2 * pair + 1) } else { _mm512_setzero_si512() };
        let pairs = interleave_zmm(row0, row1);
        // SAFETY: pair row `pair` of the panel.
        unsafe {
            _mm512_storeu_si512(panel.add(pair * 2 * NR).cast(), pairs[0]);
            _mm512_storeu_si512(panel.add(pair * 2 * NR + 32).cast(), pairs[1]);
        }
    }
}

/// As `nf4_nn_bf16`, in f32: one row of the panel for one row of the matrix.
///
/// # Safety
/// `panel` is writable for `rows` · 32 floats; the CPU has the features.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn nf4_nn_f32<S: Fn(usize) -> f32>(
    codes: &[u8],
    cols: usize,
    rows: usize,
    col0: usize,
    scale: &S,
    codebook: &[f32; 16],
    panel: *mut f32,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(codebook.as_ptr()) };
    for row in 0..rows {
        let element = row * cols + col0;
        let bytes = &codes[element / 2..element / 2 + 16];
        // SAFETY: 16 bytes, just sliced; row `row` of the panel.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let [first, second] = decode_32(bytes, scale(element / 64), codebook);
            _mm512_storeu_ps(panel.add(row * NR), first);
            _mm512_storeu_ps(panel.add(row * NR + 16), second);
        }
    }
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

/// `rounds` products on each of `N` accumulators that do not wait for each other.
///
/// # Safety
/// The CPU has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub unsafe fn multiply_chains<const N: usize>(rounds: usize) {
    let mut acc = [_mm512_setzero_ps(); N];
    let one = std::hint::black_box(_mm512_set1_epi32(0x3f80_3f80));
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm512_dpbf16_ps(*acc, as_bh(one), as_bh(one));
        }
    }
    std::hint::black_box(acc);
}
