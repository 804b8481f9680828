//! The tile GEMM's primitives in plain Rust, written so that 128-bit vectors (SSE2) do them well.

use half::bf16;

use super::tile::{Vector, block, chains};
use super::{GemmElement, MR, NR, Nf4Codes, Segment};
use crate::device::cpu::Element;

/// Where element (k, column) lies in a panel.
#[inline(always)]
fn place<E: GemmElement>(k: usize, column: usize) -> usize {
    (k / E::GROUP) * E::GROUP * NR + column * E::GROUP + k % E::GROUP
}

/// Packs with a plain loop: `value(k, column)` for k in `from..k`, zero where `column >= columns`.
#[inline(always)]
pub fn pack<E: GemmElement>(
    from: usize,
    k: usize,
    columns: usize,
    panel: &mut [E],
    value: impl Fn(usize, usize) -> E,
) {
    let zero = E::from_f32(0.0);
    for kk in from..k.next_multiple_of(E::GROUP) {
        for column in 0..NR {
            let inside = kk < k && column < columns;
            panel[place::<E>(kk, column)] = if inside { value(kk, column) } else { zero };
        }
    }
}

// Four f32 or words: one register of SSE2 or NEON, where the compiler sees fit.
impl Vector for [f32; 4] {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const u32) -> Self {
        // SAFETY: the caller's promise; any bits are an f32.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(word: u32) -> Self {
        [f32::from_bits(word); 4]
    }
    #[inline(always)]
    unsafe fn multiply_add(self, b: Self, mut sum: Self) -> Self {
        // Not `mul_add`: without the instruction that is a call of the C library.
        for (sum, (a, b)) in sum.iter_mut().zip(self.iter().zip(b)) {
            *sum += a * b;
        }
        sum
    }
    #[inline(always)]
    unsafe fn first(self) -> Self {
        if cfg!(target_endian = "little") { low(self) } else { high(self) }
    }
    #[inline(always)]
    unsafe fn second(self) -> Self {
        if cfg!(target_endian = "little") { high(self) } else { low(self) }
    }
}

#[inline(always)]
fn low(words: [f32; 4]) -> [f32; 4] {
    words.map(|word| f32::from_bits(word.to_bits() << 16))
}

#[inline(always)]
fn high(words: [f32; 4]) -> [f32; 4] {
    words.map(|word| f32::from_bits(word.to_bits() & 0xffff_0000))
}

/// Cuts the tile into blocks of 32 sums: eight 128-bit registers of the sixteen. Every sum runs over
/// k in order, so its bits do not depend on the block that it falls in.
///
/// # Safety
/// As [`GemmElement::tile`].
#[inline(always)]
unsafe fn tile<E: GemmElement>(rows: usize, segments: &[Segment<E>], out: &mut [f32; MR * NR]) {
    let mut row = 0;
    while row < rows {
        // SAFETY: the blocks' rows are below `rows`; the rest is the caller's promise.
        row += unsafe {
            match rows - row {
                1 => strip::<E, 1, 8>(row, segments, out),
                2 | 3 => strip::<E, 2, 4>(row, segments, out),
                _ => strip::<E, 4, 2>(row, segments, out),
            }
        };
    }
}

/// `R` rows from `row`, `W` registers of columns at a time; returns `R`.
///
/// # Safety
/// As [`GemmElement::tile`], with `row + R` rows; `W` divides 8.
#[inline(always)]
unsafe fn strip<E: GemmElement, const R: usize, const W: usize>(
    row: usize,
    segments: &[Segment<E>],
    out: &mut [f32; MR * NR],
) -> usize {
    for column in (0..NR).step_by(4 * W) {
        // SAFETY: the caller's promise.
        unsafe { block::<[f32; 4], E, R, W>(row, column, segments, out) };
    }
    R
}

/// [`GemmElement::tile`] for bf16.
///
/// # Safety
/// As [`GemmElement::tile`].
pub unsafe fn tile_bf16(rows: usize, segments: &[Segment<bf16>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile(rows, segments, out) }
}

/// [`GemmElement::tile`] for f32.
///
/// # Safety
/// As [`GemmElement::tile`].
pub unsafe fn tile_f32(rows: usize, segments: &[Segment<f32>], out: &mut [f32; MR * NR]) {
    // SAFETY: the caller's promise.
    unsafe { tile(rows, segments, out) }
}

/// Leaves every row to [`pack`].
///
/// # Safety
/// Safe; unsafe is what the other levels have.
pub unsafe fn pack_nt(_: *const u8, _: usize, _: usize, _: usize, _: *mut u32) -> usize {
    0
}

/// Packs `pairs` pairs of rows at a pitch of `ld` (the "nn" direction), `cols` of 32 columns and zeros.
///
/// # Safety
/// `data` has these rows of `cols` ≤ 32 elements, `panel` is writable for `pairs` · 64 elements.
#[inline(always)]
pub unsafe fn pair_rows(data: *const bf16, ld: usize, cols: usize, pairs: usize, panel: *mut bf16) {
    for pair in 0..pairs {
        // SAFETY: the caller's promise.
        let (rows, panel) = unsafe {
            let row = |row: usize| std::slice::from_raw_parts(data.add(row * ld), cols);
            let panel = panel.cast::<[[bf16; 2]; NR]>().add(pair);
            ([row(2 * pair), row(2 * pair + 1)], &mut *panel)
        };
        if let [Ok(row0), Ok(row1)] = rows.map(<&[bf16; NR]>::try_from) {
            for i in 0..NR {
                panel[i] = [row0[i], row1[i]];
            }
        } else {
            *panel = [[bf16::ZERO; 2]; NR];
            for i in 0..cols {
                panel[i] = [rows[0][i], rows[1][i]];
            }
        }
    }
}

pub use {
    nf4_nn as nf4_nn_bf16, nf4_nn as nf4_nn_f32, nf4_nt as nf4_nt_bf16, nf4_nt as nf4_nt_f32,
};

/// [`GemmElement::decode_nt`], of any width.
///
/// # Safety
/// As [`GemmElement::decode_nt`].
pub unsafe fn nf4_nt<E: GemmElement, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    row0: usize,
    rows: usize,
    panel: &mut [E],
) {
    pack(0, nf4.cols, rows, panel, |kk, column| E::from_f32(nf4.value(row0 + column, kk)));
}

/// [`GemmElement::decode_nn`], of any width.
///
/// # Safety
/// As [`GemmElement::decode_nn`].
pub unsafe fn nf4_nn<E: GemmElement, S: Fn(usize) -> f32>(
    nf4: &Nf4Codes<S>,
    col0: usize,
    cols: usize,
    panel: &mut [E],
) {
    pack(0, nf4.rows, cols, panel, |kk, column| E::from_f32(nf4.value(kk, col0 + column)));
}

/// Scales 32 f32 and rounds them to bf16, in vectors of whatever level it is inlined into.
#[inline(always)]
pub fn round_bf16(tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
    for (out, &x) in out.iter_mut().zip(tile) {
        *out = Element::from_f32(x * scale);
    }
}

/// Scales 32 f32 and rounds them to bf16.
///
/// # Safety
/// Safe; unsafe is what the other levels have.
pub unsafe fn store_bf16(tile: &[f32; NR], scale: f32, out: &mut [bf16; NR]) {
    round_bf16(tile, scale, out);
}

/// Multiply-adds on twelve registers; see [`super::multiply_chains`].
///
/// # Safety
/// Safe; unsafe is what the other levels have.
pub unsafe fn multiply_chains(rounds: usize) -> usize {
    // SAFETY: every CPU does this.
    unsafe { chains::<[f32; 4], 12>(rounds) }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, panel_len};
    use super::*;

    /// Every height gives the bits of the sum in order, over two segments with odd k: a level's
    /// tile may not depend on the height, and f32 multiply-adds may differ in being fused only.
    fn sums_run_in_order<E: GemmElement>(level: Level) {
        let lengths = [7, 13];
        let value = |i: usize| E::from_f32(((i * 37 % 101) as f32 - 50.0) / 7.0);
        let a: Vec<E> = (0..MR * 13).map(value).collect();
        let panels = lengths.map(|k| {
            let mut panel = vec![E::from_f32(f32::NAN); panel_len::<E>(k)];
            pack(0, k, NR, &mut panel, |k, column| value(k * 31 + column + 5));
            panel
        });
        let segments: [_; 2] = std::array::from_fn(|i| Segment {
            a: a.as_ptr(),
            lda: 13,
            k: lengths[i],
            panel: panels[i].as_ptr(),
        });
        for rows in 1..=E::tile_rows(level) {
            let mut out = [f32::NAN; MR * NR];
            // SAFETY: MR rows of 13 elements, panels of their full length.
            unsafe { E::tile(level, rows, &segments, &mut out) };
            for (i, out) in out[..rows * NR].iter().enumerate() {
                let mut want = 0f32;
                for k in lengths.into_iter().flat_map(|k| 0..k) {
                    let (a, b) = (a[i / NR * 13 + k].to_f32(), value(k * 31 + i % NR + 5).to_f32());
                    want = if level == Level::PORTABLE { want + a * b } else { a.mul_add(b, want) };
                }
                assert_eq!(out.to_bits(), want.to_bits(), "{level:?}, {rows} rows, output {i}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_height() {
        for level in Level::available() {
            // The dot product of pairs adds in its own order.
            if !level.has_bf16() {
                sums_run_in_order::<bf16>(level);
            }
            sums_run_in_order::<f32>(level);
        }
    }
}
