//! The shared primitives with AVX2 and fused multiply-add: sixteen registers of 8 lanes.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::plain::round_bf16;
use super::tile::{Vector, again, block, chains};
use super::{GemmElement, MR, NR, Nf4Codes, Segment, plain};

/// Eight f32 or words.
#[derive(Clone, Copy)]
struct Ymm(__m256);

impl Vector for Ymm {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: the caller's promise.
        Ymm(unsafe { _mm256_loadu_ps(from.cast()) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Ymm(_mm256_castsi256_ps(_mm256_set1_epi32(word as i32))) }
    }
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, sum: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Ymm(_mm256_fmadd_ps(self.0, b.0, sum.0)) }
    }
    #[inline(always)]
    unsafe fn first(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Ymm(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(self.0)))) }
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            Ymm(_mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(self.0), high)))
        }
    }
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn hidden(mut self) -> Self {
        // SAFETY: no instruction.
        unsafe {
            asm!("/* {0} */", inout(ymm_reg) self.0, options(pure, nomem, nostack, preserves_flags))
        };
        self
    }
    #[inline(always)]
    fn again<T>(pointer: *const T) -> *const T {
        again(pointer)
    }
}

/// Up to six rows by 16 columns at a time, or two by 32: at most twelve of the sixteen registers hold
/// sums. Of bf16 five rows: both columns' widened words need registers too, and six would spill.
///
/// # Safety
/// As [`GemmElement::tile`]; the CPU has the level.
#[inline(always)]
unsafe fn tile<E: GemmElement>(rows: usize, segments: &[Segment<E>], out: &mut [f32; MR * NR]) {
    let most = if E::GROUP == 1 { 6 } else { 5 };
    let mut row = 0;
    while row < rows {
        let height = most.min(rows - row);
        // SAFETY: the caller's promise; the heights sum up to `rows`.
        unsafe {
            match height {
                1 => columns::<E, 1, 4>(row, segments, out),
                2 => columns::<E, 2, 4>(row, segments, out),
                3 => columns::<E, 3, 2>(row, segments, out),
                4 => columns::<E, 4, 2>(row, segments, out),
                5 => columns::<E, 5, 2>(row, segments, out),
                _ => columns::<E, 6, 2>(row, segments, out),
            }
        }
        row += height;
    }
}

/// `R` rows from `row`, `W` registers of columns at a time.
///
/// # Safety
/// As [`GemmElement::tile`], with `row + R` rows; `W` divides 4; the CPU has the level.
#[target_feature(enable = "avx2,fma")]
unsafe fn columns<E: GemmElement, const R: usize, const W: usize>(
    row: usize,
    segments: &[Segment<E>],
    out: &mut [f32; MR * NR],
) {
    for column in (0..NR).step_by(8 * W) {
        // SAFETY: the caller's promise.
        unsafe { block::<Ymm, E, R, W>(row, column, segments, out) };
    }
}

/// [`GemmElement::tile`] for bf16, widened in registers.
///
/// # Safety
/// As [`GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile(rows, segments, out) }
}

/// [`GemmElement::tile`] for f32.
///
/// # Safety
/// As [`GemmElement::tile`]; the CPU has the level.
pub unsafe fn tile_f32(rows: usize, segments: &[Segment<f32>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile(rows, segments, out) }
}

/// Transposes 8 rows of 8 words: word `i` of row `j` goes to `out[i * NR + j]`.
///
/// # Safety
/// `out` is writable for 7 · 32 + 8 words; the CPU has AVX2.
#[inline(always)]
unsafe fn transpose_8x8(rows: &[__m256i; 8], out: *mut u32) {
    // SAFETY: the caller's promise.
    unsafe {
        // Words, then pairs of them, within the 128-bit lanes; then the lanes themselves.
        let mut t = [_mm256_setzero_si256(); 8];
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        for c in 0..4 {
            // Lane l of `top` holds word 4l + c of rows 0..4, of `bottom` of rows 4..8.
            let (i, high) = (c / 2, c % 2 == 1);
            let pair = |a, b| {
                if high { _mm256_unpackhi_epi64(a, b) } else { _mm256_unpacklo_epi64(a, b) }
            };
            let (top, bottom) = (pair(t[i], t[2 + i]), pair(t[4 + i], t[6 + i]));
            let first = _mm256_permute2x128_si256::<0x20>(top, bottom);
            let second = _mm256_permute2x128_si256::<0x31>(top, bottom);
            _mm256_storeu_si256(out.add(c * NR).cast(), first);
            _mm256_storeu_si256(out.add((4 + c) * NR).cast(), second);
        }
    }
}

/// Packs whole registers of rows into a panel (the "nt" direction): the first `words / 8 * 8` words of
/// each of 32 rows, and returns how many. Rows `j >= rows` are packed as zeros.
///
/// # Safety
/// `rows` ≤ 32 rows of `words` words at a pitch of `pitch` bytes are readable from `data`; `panel` is
/// writable for `words` · 32 words; the CPU has AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn pack_nt(
    data: *const u8,
    pitch: usize,
    rows: usize,
    words: usize,
    panel: *mut u32,
) -> usize {
    for chunk in 0..words / 8 {
        for group in 0..4 {
            let mut square = [_mm256_setzero_si256(); 8];
            for (j, value) in square.iter_mut().enumerate() {
                let row = 8 * group + j;
                if row < rows {
                    // SAFETY: promised by the caller.
                    *value =
                        unsafe { _mm256_loadu_si256(data.add(row * pitch + 32 * chunk).cast()) };
                }
            }
            // SAFETY: words 8·chunk .. +8 of the panel, columns 8·group .. +8.
            unsafe { transpose_8x8(&square, panel.add(8 * chunk * NR + 8 * group)) };
        }
    }
    words / 8 * 8
}

/// Packs rows of bf16 two by two (the "nn" direction).
///
/// # Safety
/// As [`plain::pair_rows`]; the CPU has AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn pair_rows(data: *const bf16, ld: usize, cols: usize, pairs: usize, panel: *mut bf16) {
    // SAFETY: the caller's promise.
    unsafe { plain::pair_rows(data, ld, cols, pairs, panel) }
}

/// How the values that an NF4 block's codes stand for are made, and looked up.
///
/// A block has 64 codes and 16 values, so the values are multiplied and rounded, not the codes.
trait Decoder {
    /// Registers that 32 decoded codes fill: words of 32 bits in order of k.
    const REGISTERS: usize;

    /// `codebook · scale`, rounded once.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn table(codebook: [__m256; 2], scale: f32) -> [__m256i; 2];

    /// Looks 32 codes up, given as a byte each. Of bf16 the first two registers are filled.
    ///
    /// # Safety
    /// The CPU has AVX2.
    unsafe fn look_up(codes: [__m128i; 2], table: [__m256i; 2]) -> [__m256i; 4];
}

struct ToF32;

impl Decoder for ToF32 {
    const REGISTERS: usize = 4;

    #[inline(always)]
    unsafe fn table(codebook: [__m256; 2], scale: f32) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = _mm256_set1_ps(scale);
            [
                _mm256_castps_si256(_mm256_mul_ps(codebook[0], scale)),
                _mm256_castps_si256(_mm256_mul_ps(codebook[1], scale)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn look_up(codes: [__m128i; 2], table: [__m256i; 2]) -> [__m256i; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let (low, high) = (_mm256_castsi256_ps(table[0]), _mm256_castsi256_ps(table[1]));
            let eight = |codes: __m128i| {
                let codes = _mm256_cvtepu8_epi32(codes);
                // Three bits of a code choose in each half of the table, the fourth between them.
                let (a, b) =
                    (_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes));
                let choice = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
                _mm256_castps_si256(_mm256_blendv_ps(a, b, choice))
            };
            [
                eight(codes[0]),
                eight(_mm_srli_si128::<8>(codes[0])),
                eight(codes[1]),
                eight(_mm_srli_si128::<8>(codes[1])),
            ]
        }
    }
}

/// The table holds the low bytes of the sixteen values and then the high bytes, each in both lanes: a
/// shuffle of bytes looks up one half of a bf16.
struct ToBf16;

impl Decoder for ToBf16 {
    const REGISTERS: usize = 2;

    #[inline(always)]
    unsafe fn table(codebook: [__m256; 2], scale: f32) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = _mm256_set1_ps(scale);
            let first = round(_mm256_mul_ps(codebook[0], scale));
            let second = round(_mm256_mul_ps(codebook[1], scale));
            // Packing works within lanes; the permutation puts quarters 0, 2, 1, 3 back in order.
            let words = _mm256_packus_epi32(first, second);
            let words = _mm256_permute4x64_epi64::<0xd8>(words);
            let low = _mm256_and_si256(words, _mm256_set1_epi16(0xff));
            let bytes = _mm256_packus_epi16(low, _mm256_srli_epi16::<8>(words));
            // Quarters: low bytes of values 0..8, high bytes of them, low bytes of 8..16, high bytes.
            [_mm256_permute4x64_epi64::<0x88>(bytes), _mm256_permute4x64_epi64::<0xdd>(bytes)]
        }
    }

    #[inline(always)]
    unsafe fn look_up(codes: [__m128i; 2], table: [__m256i; 2]) -> [__m256i; 4] {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = _mm256_set_m128i(codes[1], codes[0]);
            let low = _mm256_shuffle_epi8(table[0], codes);
            let high = _mm256_shuffle_epi8(table[1], codes);
            // Codes 0..8 and 16..24; 8..16 and 24..32.
            let even = _mm256_unpacklo_epi8(low, high);
            let odd = _mm256_unpackhi_epi8(low, high);
            let zero = _mm256_setzero_si256();
            [
                _mm256_permute2x128_si256::<0x20>(even, odd),
                _mm256_permute2x128_si256::<0x31>(even, odd),
                zero,
                zero,
            ]
        }
    }
}

/// f32 to bf16 in the low half of each word, to nearest even; NaN stays NaN.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn round(values: __m256) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm256_castps_si256(values);
        let high = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        let up = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
        let quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
        _mm256_blendv_epi8(rounded, quiet, nan)
    }
}

/// The codes of 16 bytes, one byte each: element 2j is the high nibble of byte j.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn nibbles(bytes: __m128i) -> [__m128i; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let mask = _mm_set1_epi8(15);
        let high = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        let low = _mm_and_si128(bytes, mask);
        [_mm_unpacklo_epi8(high, low), _mm_unpackhi_epi8(high, low)]
    }
}

/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn load_codebook(codebook: &[f32; 16]) -> [__m256; 2] {
    // SAFETY: 16 floats.
    unsafe { [_mm256_loadu_ps(codebook.as_ptr()), _mm256_loadu_ps(codebook.as_ptr().add(8))] }
}

/// Decodes rows `row0 .. row0 + rows` (≤ 32) of an NF4 matrix into an "nt" panel.
/// `cols % 64 == 0`, so that 32 elements never straddle a block.
///
/// # Safety
/// The matrix has those rows; `panel` is writable for `cols` · 32 elements; the CPU has AVX2.
#[inline(always)]
unsafe fn nf4_nt<D: Decoder, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: *mut u32,
) {
    // SAFETY: the caller's promise.
    let (codebook, zero) = unsafe { (load_codebook(nf4.codebook), _mm256_setzero_si256()) };
    // A block of 64 at a time, so that each scale is looked up once.
    for block in 0..nf4.cols / 64 {
        for group in 0..4 {
            let mut squares = [[zero; 8]; 8];
            for j in 0..8 {
                let row = 8 * group + j;
                if row < rows {
                    let index = (row0 + row) * (nf4.cols / 64) + block;
                    let bytes = &nf4.codes[32 * index..32 * index + 32];
                    // SAFETY: 32 bytes, just sliced.
                    unsafe {
                        let table = D::table(codebook, (nf4.scale)(index));
                        let bytes = bytes.as_ptr().cast::<__m128i>();
                        let low = D::look_up(nibbles(_mm_loadu_si128(bytes)), table);
                        let high = D::look_up(nibbles(_mm_loadu_si128(bytes.add(1))), table);
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
                let word = 8 * (2 * D::REGISTERS * block + i);
                // SAFETY: words `word .. word + 8` of the panel, columns 8·group .. +8.
                unsafe { transpose_8x8(square, panel.add(word * NR + 8 * group)) };
            }
        }
    }
}

/// # Safety
/// 16 bytes of codes from element `element` on; the CPU has AVX2.
#[inline(always)]
unsafe fn decode_32<D: Decoder, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    codebook: [__m256; 2],
    element: usize,
) -> [__m256i; 4] {
    let bytes = &nf4.codes[element / 2..element / 2 + 16];
    // SAFETY: 16 bytes, just sliced; the rest is the caller's promise.
    unsafe {
        let table = D::table(codebook, (nf4.scale)(element / 64));
        D::look_up(nibbles(_mm_loadu_si128(bytes.as_ptr().cast())), table)
    }
}

/// [`GemmElement::decode_nt`] for bf16.
///
/// # Safety
/// As [`GemmElement::decode_nt`]; the CPU has the level.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn nf4_nt_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nt::<ToBf16, S>(nf4, row0, rows, panel.as_mut_ptr().cast()) }
}

/// [`GemmElement::decode_nt`] for f32.
///
/// # Safety
/// As [`GemmElement::decode_nt`]; the CPU has the level.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn nf4_nt_f32<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [f32],
) {
    // SAFETY: the caller's promise.
    unsafe { nf4_nt::<ToF32, S>(nf4, row0, rows, panel.as_mut_ptr().cast()) }
}

/// [`GemmElement::decode_nn`] for bf16: pairs of rows; a last odd row is paired with zeros.
///
/// # Safety
/// As [`GemmElement::decode_nn`]; the CPU has the level.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn nf4_nn_bf16<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    _cols: usize,
    panel: &mut [bf16],
) {
    // SAFETY: the caller's promise: rows of codes, and 64 elements of the panel for a pair of rows.
    unsafe {
        let codebook = load_codebook(nf4.codebook);
        let decode = |row: usize| decode_32::<ToBf16, S>(nf4, codebook, row * nf4.cols + col0);
        for (pair, panel) in panel.chunks_exact_mut(2 * NR).enumerate().take(nf4.rows.div_ceil(2)) {
            let [a, b, zero, _] = decode(2 * pair);
            let [c, d, ..] = if 2 * pair + 1 < nf4.rows { decode(2 * pair + 1) } else { [zero; 4] };
            for (half, (a, c)) in [(a, c), (b, d)].into_iter().enumerate() {
                // Within lanes: columns 0..4 and 8..12 of the 16; 4..8 and 12..16.
                let (even, odd) = (_mm256_unpacklo_epi16(a, c), _mm256_unpackhi_epi16(a, c));
                let panel = panel.as_mut_ptr().cast::<__m256i>().add(2 * half);
                _mm256_storeu_si256(panel, _mm256_permute2x128_si256::<0x20>(even, odd));
                _mm256_storeu_si256(panel.add(1), _mm256_permute2x128_si256::<0x31>(even, odd));
            }
        }
    }
}

/// [`GemmElement::decode_nn`] for f32: one row of the panel for one row of the matrix.
///
/// # Safety
/// As [`GemmElement::decode_nn`]; the CPU has the level.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn nf4_nn_f32<S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    _cols: usize,
    panel: &mut [f32],
) {
    // SAFETY: the caller's promise: rows of codes, and 32 floats of the panel for each.
    unsafe {
        let codebook = load_codebook(nf4.codebook);
        for (row, panel) in panel.chunks_exact_mut(NR).enumerate().take(nf4.rows) {
            let words = decode_32::<ToF32, S>(nf4, codebook, row * nf4.cols + col0);
            for (i, &words) in words.iter().enumerate() {
                _mm256_storeu_si256(panel.as_mut_ptr().cast::<__m256i>().add(i), words);
            }
        }
    }
}

/// Scales 32 f32 and rounds them to bf16.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub unsafe fn store_bf16(tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
    round_bf16(tile, scale, out);
}

/// Multiply-adds on twelve registers; see [`super::multiply_chains`].
///
/// # Safety
/// The CPU has the level.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply_chains(rounds: usize) -> usize {
    // SAFETY: the caller's promise.
    unsafe { chains::<Ymm, 12>(rounds) }
}
