//! The sums for few rows with AMX.
//!
//! Rows of weights as they lie are a product's left operand, 16 features by 32 elements of k; rows of x are
//! columns of its right one, in pairs of k. So nothing is turned but x, each sum is the tile GEMM's, the order of
//! its two factors apart, and up to 16 rows of x cost what one does.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::super::amx_bf16::{DEPTH, HALF, Padded, configure, dot, load, release, store};
use super::{FEW, Left, NR, Nf4Codes, Sums};

/// Codes of a block, and their bytes.
const BLOCK: usize = 64;
const BLOCK_BYTES: usize = BLOCK / 2;
/// Blocks of a row whose scales are looked up together.
const SCALES: usize = 32;
/// Products along a block.
const PRODUCTS: usize = BLOCK / DEPTH;

/// Where the codes of a doubled quadword begin, for the low byte of each word: high nibbles first.
static PLACES: [u8; 64] = {
    let mut places = [0; 64];
    let mut word = 0;
    while word < 32 {
        let byte = word / 2 % 8;
        places[2 * word] = (8 * byte + if word % 2 == 0 { 4 } else { 0 }) as u8;
        word += 1;
    }
    places
};

/// `super::add_nf4`.
///
/// A feature's block has 16 values, which are scaled and rounded once; its codes look them up, 32 at a time. A
/// product's operand is read from memory, where it must have arrived: a block is multiplied while the next one is
/// looked up.
///
/// # Safety
/// `1..=32` rows; x holds 1 to 8 rows of `cols`, a multiple of 64; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512bf16")]
pub unsafe fn nf4(
    nf4: &Nf4Codes<impl Fn(usize, &mut [f32])>,
    row0: usize,
    rows: usize,
    x: Left,
    sums: &mut Sums,
) {
    let (blocks, pitch) = (nf4.cols / BLOCK, nf4.cols / 2);
    let codes = nf4.codes[row0 * pitch..(row0 + rows) * pitch].as_ptr();
    // SAFETY: 16 floats.
    let codebook = unsafe { _mm512_loadu_ps(nf4.codebook.as_ptr()) };
    // Of a panel at once where that is all of its scales; else a stretch of each row.
    let (mut scales, scale_pitch) = ([0f32; SCALES * NR], blocks.min(SCALES));
    let mut weights = [const { Weights([[MaybeUninit::uninit(); NR]; PRODUCTS]) }; 2];
    let mut columns = [const { Columns([0; _]) }; 2];
    // SAFETY: `rows` is in range; each block is written before it is multiplied, and inside the rows.
    unsafe {
        let release_it = start(rows, x.m, sums);
        for block in 0..blocks {
            let at = block % SCALES;
            if at == 0 && blocks <= SCALES {
                (nf4.scale)(row0 * blocks, &mut scales[..rows * blocks]);
            } else if at == 0 {
                let count = SCALES.min(blocks - block);
                for (row, scales) in scales.chunks_exact_mut(SCALES).take(rows).enumerate() {
                    (nf4.scale)((row0 + row) * blocks + block, &mut scales[..count]);
                }
            }
            let now = block % 2;
            columns[now].fill(x, BLOCK * block, BLOCK);
            let codes = codes.add(BLOCK_BYTES * block);
            // The panel after this one, a line a row and product pair.
            for line in 0..NR * BLOCK_BYTES / 64 {
                let next =
                    codes.wrapping_add(NR * pitch + (NR - 1) * BLOCK_BYTES * block + 64 * line);
                _mm_prefetch::<_MM_HINT_T0>(next.cast());
            }
            for i in 0..rows.div_ceil(HALF) {
                for row in HALF * i..rows.min(HALF * (i + 1)) {
                    let scale = scales[row * scale_pitch + at];
                    weights[now].decode(row, codes.add(row * pitch), codebook, scale);
                }
                // Half of a block's products after each half of the next one's features: they overlap.
                if block > 0 && (rows > HALF || i == 0) {
                    let products = if rows > HALF { i..i + 1 } else { 0..PRODUCTS };
                    weights[1 - now].multiply(products, rows, &columns[1 - now], x.m);
                }
            }
        }
        let last = (blocks - 1) % 2;
        weights[last].multiply(0..PRODUCTS, rows, &columns[last], x.m);
        finish(rows, x.m, sums);
        if release_it {
            release();
        }
    }
}

/// A block of 32 features as two left operands.
#[repr(align(64))]
struct Weights([[MaybeUninit<__m512i>; NR]; PRODUCTS]);

impl Weights {
    /// Looks up a row's block.
    ///
    /// # Safety
    /// 32 bytes of codes are readable; the CPU has the features.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512bf16")]
    unsafe fn decode(&mut self, row: usize, codes: *const u8, codebook: __m512, scale: f32) {
        let values = _mm512_mul_ps(codebook, _mm512_set1_ps(scale));
        // Twice, so that a code's fifth bit, which is its neighbour's, does not matter.
        let values = from_bh(_mm512_cvtne2ps_pbh(values, values));
        for (i, product) in self.0.iter_mut().enumerate() {
            // SAFETY: 16 of the bytes; 64 of the places.
            let (first, second, places) = unsafe {
                let codes = codes.add(16 * i).cast::<i64>();
                let places = _mm512_loadu_si512(PLACES.as_ptr().cast());
                (codes.read_unaligned(), codes.add(1).read_unaligned(), places)
            };
            let codes = _mm512_mask_set1_epi64(_mm512_set1_epi64(first), 0xf0, second);
            let codes = _mm512_multishift_epi64_epi8(places, codes);
            product[row].write(_mm512_permutexvar_epi16(codes, values));
        }
    }

    /// Adds the block's products to the sums.
    ///
    /// # Safety
    /// `rows` rows were decoded; the registers are configured for them.
    #[inline(always)]
    unsafe fn multiply(&self, products: Range<usize>, rows: usize, columns: &Columns, m: usize) {
        for i in products {
            // SAFETY: the caller's promise.
            unsafe { multiply(self.0[i].as_ptr().cast(), 64, rows, columns.product(i, m), m) };
        }
    }
}

/// `super::add_bf16`.
///
/// # Safety
/// `1..=32` rows of `k` elements without gaps are readable from `w`; x holds 1 to 8 rows of k; the CPU has the level.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub unsafe fn rows(w: *const bf16, rows: usize, k: usize, x: Left, sums: &mut Sums) {
    let mut columns = [const { Columns([0; _]) }; 2];
    // SAFETY: the caller's promise; these columns are inside the rows.
    unsafe {
        let release_it = start(rows, x.m, sums);
        columns[0].fill(x, 0, k.min(BLOCK));
        for first in (0..k).step_by(BLOCK) {
            let now = first / BLOCK % 2;
            if first + BLOCK < k {
                columns[1 - now].fill(x, first + BLOCK, (k - first - BLOCK).min(BLOCK));
            }
            for i in 0..PRODUCTS.min((k - first).div_ceil(DEPTH)) {
                let (first, columns) = (first + DEPTH * i, columns[now].product(i, x.m));
                let a = w.add(first).cast::<u8>();
                for row in 0..NR {
                    _mm_prefetch::<_MM_HINT_T1>(a.wrapping_add(2 * (NR + row) * k).cast());
                }
                if k - first >= DEPTH {
                    multiply(a, 2 * k, rows, columns, x.m);
                } else {
                    let a = Padded::of_a(a, 2 * k, rows, k - first);
                    multiply(a.0.as_ptr().cast(), 64, rows, columns, x.m);
                }
            }
        }
        finish(rows, x.m, sums);
        if release_it {
            release();
        }
    }
}

/// Up to 64 columns of x as right operands: `[pair of k][row of x]`, behind them zeros and what a register's
/// lines reach beyond their m words, which makes sums that nobody reads.
#[repr(align(64))]
struct Columns([u32; BLOCK / 2 * FEW + HALF]);

impl Columns {
    /// # Safety
    /// x has `count` ≤ 64 columns from `first`, an even number; m ≤ 8.
    #[inline(always)]
    unsafe fn fill(&mut self, x: Left, first: usize, count: usize) {
        for r in 0..x.m {
            let pairs = x.data.as_ptr().wrapping_add(r * x.ld + first).cast::<u32>();
            for i in 0..count / 2 {
                // SAFETY: the caller's promise.
                self.0[i * x.m + r] = unsafe { pairs.add(i).read_unaligned() };
            }
        }
        if count < BLOCK {
            self.0[count / 2 * x.m..].fill(0);
        }
    }

    #[inline(always)]
    fn product(&self, i: usize, m: usize) -> *const u8 {
        self.0[i * HALF * m..].as_ptr().cast()
    }
}

/// Adds the product of `rows` rows of 64 bytes and of 16 pairs of x.
///
/// # Safety
/// They are readable; the registers are configured for as many rows.
#[inline(always)]
unsafe fn multiply(a: *const u8, pitch: usize, rows: usize, x: *const u8, m: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        load::<6>(x, size_of::<u32>() * m);
        load::<4>(a, pitch);
        if rows > HALF {
            load::<5>(a.add(HALF * pitch), pitch);
            dot::<2, 5, 6>();
        }
        dot::<0, 4, 6>();
    }
}

/// A line of 16 sums a feature, of which the first m are in use.
#[repr(align(64))]
struct Lines([[f32; HALF]; NR]);

/// Loads the sums of `rows` features. Returns whether to release the registers afterwards.
///
/// # Safety
/// `1..=32` rows, m ≤ 8; the CPU has the level.
#[inline(always)]
unsafe fn start(rows: usize, m: usize, sums: &Sums) -> bool {
    let mut lines = Lines([[0.0; HALF]; NR]);
    for (r, sums) in sums[..m].iter().enumerate() {
        for (line, sum) in lines.0.iter_mut().zip(sums) {
            line[r] = *sum;
        }
    }
    let from = lines.0.as_ptr().cast::<u8>();
    // SAFETY: as many lines as registers have rows.
    unsafe {
        let release_it = configure(rows);
        load::<0>(from, 64);
        if rows > HALF {
            load::<2>(from.add(64 * HALF), 64);
        }
        release_it
    }
}

/// Stores them.
///
/// # Safety
/// After [`start`] with as many rows.
#[inline(always)]
unsafe fn finish(rows: usize, m: usize, sums: &mut Sums) {
    let mut lines = Lines([[0.0; HALF]; NR]);
    let to = lines.0.as_mut_ptr().cast::<u8>();
    // SAFETY: as many lines as registers have rows.
    unsafe {
        store::<0>(to, 64);
        if rows > HALF {
            store::<2>(to.add(64 * HALF), 64);
        }
    }
    for (r, sums) in sums[..m].iter_mut().enumerate() {
        for (line, sum) in lines.0.iter().zip(sums) {
            *sum = line[r];
        }
    }
}

#[inline(always)]
fn from_bh(x: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid patterns.
    unsafe { std::mem::transmute(x) }
}
