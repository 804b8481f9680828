//! The shared primitives with AVX-512 F, BW, VL and DQ: two register tiles of 32 columns wide, and
//! what packs for them.
//!
//! What `avx512bf16.rs` shares with this file is generic over how a block's NF4 values are made.

use std::arch::x86_64::*;

use half::bf16;

use super::tile::{Vector, again, block, chains};
use super::{NR, Nf4Codes, Segment};

/// Sixteen f32 or words.
#[derive(Clone, Copy)]
pub struct Zmm(__m512);

impl Vector for Zmm {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: the caller's promise.
        Zmm(unsafe { _mm512_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_set1_epi32(word as i32))) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Zmm(_mm512_fmadd_ps(self.0, b.0, sum.0)) }
    }
    #[inline(always)]
    unsafe fn first(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(self.0)))) }
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            Zmm(_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(self.0), high)))
        }
    }
    #[inline(always)]
    fn again<T>(pointer: *const T) -> *const T {
        again(pointer)
    }
}

/// The tile of one height, 32 columns: `R` times two registers.
///
/// # Safety
/// As [`super::GemmElement::tile`], with `R` rows; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn tile<E: super::GemmElement, const R: usize>(
    segments: &[Segment<E>],
    out: &mut [f32; super::MR * NR],
) {
    // SAFETY: the caller's promise.
    unsafe { block::<Zmm, E, R, 2>(0, 0, segments, out) }
}

/// Calls one of twelve instances of a tile that is generic over its height, and over its element where
/// one is named.
macro_rules! by_rows {
    ($rows:expr, $tile:ident $(<$element:ty>)?, $segments:expr, $out:expr) => {
        match $rows {
            1 => $tile::<$($element,)? 1>($segments, $out),
            2 => $tile::<$($element,)? 2>($segments, $out),
            3 => $tile::<$($element,)? 3>($segments, $out),
            4 => $tile::<$($element,)? 4>($segments, $out),
            5 => $tile::<$($element,)? 5>($segments, $out),
            6 => $tile::<$($element,)? 6>($segments, $out),
            7 => $tile::<$($element,)? 7>($segments, $out),
            8 => $tile::<$($element,)? 8>($segments, $out),
            9 => $tile::<$($element,)? 9>($segments, $out),
            10 => $tile::<$($element,)? 10>($segments, $out),
            11 => $tile::<$($element,)? 11>($segments, $out),
            _ => $tile::<$($element,)? 12>($segments, $out),
        }
    };
}
pub(super) use by_rows;

/// [`super::GemmElement::tile`] for bf16, widened in registers.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; super::MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, tile<bf16>, segments, out) }
}

/// [`super::GemmElement::tile`] for f32.
///
/// # Safety
/// As [`super::GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_f32(rows: usize, segments: &[Segment<f32>], out: &mut [f32; super::MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { by_rows!(rows, tile<f32>, segments, out) }
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
/// `dwords / 16 * 16` dwords of each of 32 rows, and returns how many. Rows `j >= rows` are packed as
/// zeros.
///
/// # Safety
/// `rows` ≤ 32 rows of `dwords` dwords at a pitch of `pitch` bytes are readable from `data`; `panel`
/// is writable for `dwords` · 32 dwords; the CPU has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn pack_nt(
    data: *const u8,
    pitch: usize,
    rows: usize,
    dwords: usize,
    panel: *mut u32,
) -> usize {
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
    dwords / 16 * 16
}

/// Packs rows of bf16 two by two (the "nn" direction).
///
/// # Safety
/// As [`super::plain::pair_rows`]; the CPU has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn pair_rows(data: *const bf16, ld: usize, cols: usize, pairs: usize, panel: *mut bf16) {
    let inside = u32::MAX >> (NR - cols);
    for pair in 0..pairs {
        // SAFETY: promised by the caller; columns outside are not read.
        unsafe {
            let row = data.add(2 * pair * ld);
            let row0 = _mm512_maskz_loadu_epi16(inside, row.cast());
            let row1 = _mm512_maskz_loadu_epi16(inside, row.add(ld).cast());
            store_pairs(row0, row1, panel.add(pair * 2 * NR));
        }
    }
}

/// # Safety
/// `panel` is writable for 64 elements; AVX-512 BW.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_pairs(row0: __m512i, row1: __m512i, panel: *mut bf16) {
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
    // SAFETY: the constants are 64 bytes each; the rest is promised by the caller.
    unsafe {
        let low = _mm512_loadu_si512(LOW.as_ptr().cast());
        let high = _mm512_loadu_si512(HIGH.as_ptr().cast());
        _mm512_storeu_si512(panel.cast(), _mm512_permutex2var_epi16(row0, low, row1));
        _mm512_storeu_si512(panel.add(32).cast(), _mm512_permutex2var_epi16(row0, high, row1));
    }
}

/// How the values that an NF4 block's codes stand for are made, and looked up.
///
/// A block has 64 codes and 16 values, so the values are multiplied and rounded, not the codes.
pub trait Decoder {
    /// Registers that 32 decoded codes fill: words of 32 bits in order of k.
    const REGISTERS: usize;

    /// `codebook · scale`, rounded once.
    ///
    /// # Safety
    /// The CPU has the level of the implementor.
    unsafe fn table(codebook: __m512, scale: f32) -> __m512i;

    /// Looks 32 codes up. Where they fill one register, it is the first.
    ///
    /// # Safety
    /// The CPU has the level of the implementor.
    unsafe fn look_up(bytes: __m128i, table: __m512i) -> [__m512i; 2];
}

/// To f32.
pub struct ToF32;

impl Decoder for ToF32 {
    const REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn table(codebook: __m512, scale: f32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_castps_si512(_mm512_mul_ps(codebook, _mm512_set1_ps(scale))) }
    }

    #[inline(always)]
    unsafe fn look_up(bytes: __m128i, table: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            // Element 2j is the high nibble of byte j. The look-up reads four bits of a word.
            let high = _mm_srli_epi16::<4>(bytes);
            let first = _mm512_cvtepu8_epi32(_mm_unpacklo_epi8(high, bytes));
            let second = _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(high, bytes));
            [_mm512_permutexvar_epi32(first, table), _mm512_permutexvar_epi32(second, table)]
        }
    }
}

/// To bf16, rounded in integer arithmetic. The table holds everything twice.
pub struct ToBf16;

impl Decoder for ToBf16 {
    const REGISTERS: usize = 1;

    #[inline(always)]
    unsafe fn table(codebook: __m512, scale: f32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe {
            let values = _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
            let words = _mm512_cvtepi32_epi16(round(values));
            _mm512_broadcast_i64x4(words)
        }
    }

    #[inline(always)]
    unsafe fn look_up(bytes: __m128i, table: __m512i) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe { look_up_words(bytes, table) }
    }
}

/// f32 to bf16 in the low half of each word, to nearest even; NaN stays NaN.
///
/// # Safety
/// The CPU has AVX-512 F.
#[inline(always)]
unsafe fn round(values: __m512) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_castps_si512(values);
        let high = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        let up = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, up));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
        _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40))
    }
}

/// Looks 32 codes up in a table of words that holds everything twice.
///
/// # Safety
/// The CPU has AVX-512 BW.
#[inline(always)]
pub unsafe fn look_up_words(bytes: __m128i, table: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        // Word 2j takes the high nibble of byte j, word 2j + 1 the low one. The look-up reads five bits
        // of a word; the fifth does not matter, since the table holds everything twice.
        let bytes = _mm512_cvtepu8_epi32(bytes);
        let words = _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes));
        [_mm512_permutexvar_epi16(words, table), _mm512_setzero_si512()]
    }
}

/// Decodes rows `row0 .. row0 + rows` (≤ 32) of an NF4 matrix into an "nt" panel.
/// `cols % 64 == 0`, so that 32 elements never straddle a block.
///
/// # Safety
/// The matrix has those rows; `panel` is writable for `cols` · 32 elements; the CPU has the
/// decoder's level.
#[inline(always)]
pub unsafe fn nf4_nt<D: Decoder, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: *mut u32,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(nf4.codebook.as_ptr()) };
    // A block of 64 at a time, so that each scale is looked up once.
    for block in 0..nf4.cols / 64 {
        for half in 0..2 {
            // SAFETY: the features are the caller's promise.
            let zero = unsafe { _mm512_setzero_si512() };
            let mut squares = [[zero; 16]; 4];
            for j in 0..16 {
                let row = 16 * half + j;
                if row < rows {
                    let index = (row0 + row) * (nf4.cols / 64) + block;
                    let bytes = &nf4.codes[32 * index..32 * index + 32];
                    // SAFETY: 32 bytes, just sliced.
                    unsafe {
                        let table = D::table(codebook, (nf4.scale)(index));
                        let bytes = bytes.as_ptr().cast::<__m128i>();
                        let low = D::look_up(_mm_loadu_si128(bytes), table);
                        let high = D::look_up(_mm_loadu_si128(bytes.add(1)), table);
                        let halves = squares.chunks_mut(D::REGISTERS).zip([low, high]);
                        for (squares, words) in halves {
                            for (square, word) in squares.iter_mut().zip(words) {
                                square[j] = word;
                            }
                        }
                    }
                }
            }
            for (i, square) in squares[..2 * D::REGISTERS].iter().enumerate() {
                let word = 16 * (2 * D::REGISTERS * block + i);
                // SAFETY: words `word .. word + 16` of the panel, columns 16·half .. +16.
                unsafe { transpose_16x16(square, panel.add(word * NR + 16 * half), NR) };
            }
        }
    }
}

/// Decodes columns `col0 .. col0 + 32` of all rows of an NF4 matrix into an "nn" panel; of bf16 a last
/// odd row is paired with zeros. `cols % 64 == 0`.
///
/// # Safety
/// The matrix has those columns; `panel` is writable for all words; the CPU has the decoder's level.
#[inline(always)]
pub unsafe fn nf4_nn<D: Decoder, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    panel: *mut u32,
) {
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(nf4.codebook.as_ptr()) };
    if D::REGISTERS == 2 {
        for row in 0..nf4.rows {
            // SAFETY: the caller's promise; row `row` of the panel.
            unsafe {
                let words = decode_32::<D, S>(nf4, codebook, row * nf4.cols + col0);
                _mm512_storeu_si512(panel.add(row * NR).cast(), words[0]);
                _mm512_storeu_si512(panel.add(row * NR + 16).cast(), words[1]);
            }
        }
        return;
    }
    for pair in 0..nf4.rows.div_ceil(2) {
        let element = 2 * pair * nf4.cols + col0;
        // SAFETY: the caller's promise; pair row `pair` of the panel.
        unsafe {
            let [row0, zero] = decode_32::<D, S>(nf4, codebook, element);
            let [row1, _] = if 2 * pair + 1 < nf4.rows {
                decode_32::<D, S>(nf4, codebook, element + nf4.cols)
            } else {
                [zero; 2]
            };
            store_pairs(row0, row1, panel.add(pair * NR).cast());
        }
    }
}

/// Decodes 32 codes from element `element` on.
///
/// # Safety
/// The CPU has the decoder's level.
#[inline(always)]
unsafe fn decode_32<D: Decoder, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    codebook: __m512,
    element: usize,
) -> [__m512i; 2] {
    let bytes = &nf4.codes[element / 2..element / 2 + 16];
    // SAFETY: 16 bytes, just sliced; the rest is the caller's promise.
    unsafe {
        let table = D::table(codebook, (nf4.scale)(element / 64));
        D::look_up(_mm_loadu_si128(bytes.as_ptr().cast()), table)
    }
}

/// [`super::GemmElement::decode_nt`] for bf16.
///
/// # Safety
/// As [`super::GemmElement::decode_nt`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn nf4_nt_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nt::<ToBf16, S>(nf4, row0, rows, panel.as_mut_ptr().cast()) }
}

/// [`super::GemmElement::decode_nt`] for f32.
///
/// # Safety
/// As [`super::GemmElement::decode_nt`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn nf4_nt_f32<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nt::<ToF32, S>(nf4, row0, rows, panel.as_mut_ptr().cast()) }
}

/// [`super::GemmElement::decode_nn`] for bf16.
///
/// # Safety
/// As [`super::GemmElement::decode_nn`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn nf4_nn_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    _cols: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nn::<ToBf16, S>(nf4, col0, panel.as_mut_ptr().cast()) }
}

/// [`super::GemmElement::decode_nn`] for f32.
///
/// # Safety
/// As [`super::GemmElement::decode_nn`]; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn nf4_nn_f32<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    _cols: usize,
    panel: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nn::<ToF32, S>(nf4, col0, panel.as_mut_ptr().cast()) }
}

/// Scales 32 f32 and rounds them to bf16.
///
/// # Safety
/// The CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn store_bf16(tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
    super::plain::round_bf16(tile, scale, out);
}

/// Multiply-adds on 24 registers; see [`super::multiply_chains`].
///
/// # Safety
/// The CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
pub unsafe fn multiply_chains(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { chains::<Zmm, 24>(rounds) }
}
