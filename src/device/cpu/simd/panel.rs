//! The tile GEMM's two primitives: a register tile, and the panels it reads.
//!
//! A panel is 32 columns of the right operand `b[k, n]`, packed so that the tile reads it in order:
//! `panel[k / G][32][G]` with `G` elements of k together (2 for bf16, whose dot product takes
//! pairs; 1 for f32). k is padded with zeros to a multiple of G, columns to 32.
//!
//! "nt": the operand is stored `[n, k]` (a weight in y = x·Wᵀ). "nn": it is stored `[k, n]`
//! (the same weight in dx = dy·W).

use half::bf16;

use super::{Level, plain};
use crate::device::cpu::Element;

/// Columns of a panel.
pub const NR: usize = 32;
/// Columns of half a panel, which adapters of rank 16 fill.
pub const NARROW: usize = NR / 2;
/// Most rows of any register tile; [`GemmElement::tile_rows`] of one.
pub const MR: usize = 32;

/// One stretch of the contraction: `a[row, 0..k]` at pitch `lda`, and the panel it meets.
pub struct Segment<E> {
    pub a: *const E,
    pub lda: usize,
    pub k: usize,
    pub panel: *const E,
}

/// An element type that the tile GEMM multiplies. Accumulation is f32.
///
/// A panel is rows of 32 words of 32 bits, whatever the type: `GROUP` elements of k fill a word.
pub trait GemmElement: Element {
    /// Elements of k that lie together in a panel.
    const GROUP: usize;

    /// Most rows of a register tile.
    #[inline(always)]
    fn tile_rows(_level: Level) -> usize {
        12
    }

    /// `out[r][j] = Σ over segments and k of a[r, k] · panel[k, j]`, rows `0..rows` of `out`.
    ///
    /// Over segments and k in order, one f32 multiply-add after the other: fused on `avx2` and
    /// `avx512f` (the same bits), with two roundings on `portable`. f32 goes on `avx512bf16` and `amx_bf16`
    /// as on `avx512f`; bf16 not. On `avx512bf16` it goes by pairs of k, as the dot product adds them; on
    /// `amx_bf16` by 32 elements of k, whose even and odd ones are summed apart, and what is subnormal, given
    /// or made, counts as zero.
    ///
    /// # Safety
    /// For every segment: `rows` rows of `k` elements at pitch `lda` are readable from `a`, and
    /// [`panel_len`] elements from `panel`. `rows` is in
    /// 1..=[`GemmElement::tile_rows`].
    unsafe fn tile(level: Level, rows: usize, segments: &[Segment<Self>], out: &mut [f32; MR * NR]);

    /// As [`GemmElement::tile`], where only the first [`NARROW`] columns are wanted; the others may
    /// hold anything. Same bits.
    ///
    /// # Safety
    /// As [`GemmElement::tile`].
    unsafe fn narrow_tile(
        level: Level,
        rows: usize,
        segments: &[Segment<Self>],
        out: &mut [f32; MR * NR],
    ) {
        // SAFETY: the caller's promise.
        unsafe { Self::tile(level, rows, segments, out) }
    }

    /// The level's decoder for [`GemmElement::nf4_nt`].
    ///
    /// # Safety
    /// The matrix has these rows, the panel its length. Unless the level is portable, `nf4.cols` is
    /// a multiple of 64.
    unsafe fn decode_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [Self],
    );

    /// The level's decoder for [`GemmElement::nf4_nn`].
    ///
    /// # Safety
    /// The matrix has these columns, the panel its length. Unless the level is portable, `nf4.cols`
    /// is a multiple of 64, and `cols` is 32.
    unsafe fn decode_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    );

    /// Packs rows `row0 .. row0 + rows` of `data[n, k]` (pitch `ld`) into an "nt" panel.
    fn pack_nt(
        level: Level,
        data: &[Self],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [Self],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        check_panel(panel, rows, k);
        let (source, pitch) = (data.as_ptr().cast(), ld * size_of::<Self>());
        // SAFETY: lengths checked above; k / GROUP whole words a row.
        let words = unsafe {
            let panel = panel.as_mut_ptr().cast();
            on!(level, pack_nt(source, pitch, rows, k / Self::GROUP, panel))
        };
        plain::pack(words * Self::GROUP, k, rows, panel, |kk, column| data[column * ld + kk]);
    }

    /// Packs columns `col0 .. col0 + cols` of `data[k, n]` (pitch `ld`) into an "nn" panel.
    fn pack_nn(
        level: Level,
        data: &[Self],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        check_panel(panel, cols, k);
        let mut done = 0;
        if cols > 0 && k >= Self::GROUP {
            let (whole, from) = (k / Self::GROUP, &data[col0..]);
            if Self::GROUP == 1 {
                for (row, words) in from.chunks(ld).zip(panel.chunks_exact_mut(NR)).take(whole) {
                    words[..cols].copy_from_slice(&row[..cols]);
                    words[cols..].fill(Self::from_f32(0.0));
                }
            } else {
                let (from, panel) = (from.as_ptr().cast(), panel.as_mut_ptr().cast());
                // SAFETY: whole pairs of rows of `cols` elements from `from` on, and the panel's
                // length (checked above); pairs are bf16.
                unsafe { on!(level, pair_rows(from, ld, cols, whole, panel)) };
            }
            done = whole * Self::GROUP;
        }
        plain::pack(done, k, cols, panel, |kk, column| data[kk * ld + col0 + column]);
    }

    /// As `pack_nt`, from bf16 data, widened where `Self` is f32.
    fn pack_nt_bf16(
        _level: Level,
        data: &[bf16],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [Self],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        check_panel(panel, rows, k);
        let value = |kk, column| Self::from_f32(Element::to_f32(data[column * ld + kk]));
        plain::pack(0, k, rows, panel, value);
    }

    /// As `pack_nn`, from bf16 data, widened where `Self` is f32.
    fn pack_nn_bf16(
        _level: Level,
        data: &[bf16],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        check_panel(panel, cols, k);
        let value = |kk, column| Self::from_f32(Element::to_f32(data[kk * ld + col0 + column]));
        plain::pack(0, k, cols, panel, value);
    }

    /// As `pack_nt`, from f32 data, rounded where `Self` is bf16.
    fn pack_nt_f32(
        _level: Level,
        data: &[f32],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [Self],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        check_panel(panel, rows, k);
        plain::pack(0, k, rows, panel, |kk, column| Self::from_f32(data[column * ld + kk]));
    }

    /// As `pack_nn`, from f32 data, rounded where `Self` is bf16.
    fn pack_nn_f32(
        _level: Level,
        data: &[f32],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        check_panel(panel, cols, k);
        plain::pack(0, k, cols, panel, |kk, column| Self::from_f32(data[kk * ld + col0 + column]));
    }

    /// Decodes rows `row0 .. row0 + rows` of an NF4 matrix into an "nt" panel.
    fn nf4_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [Self],
    ) {
        nf4.check(row0, rows, 0, nf4.cols);
        check_panel(panel, rows, nf4.cols);
        // Registers are filled from whole blocks.
        let level = if nf4.cols.is_multiple_of(64) { level } else { Level::PORTABLE };
        // SAFETY: just checked.
        unsafe { Self::decode_nt(level, nf4, row0, rows, panel) }
    }

    /// Decodes columns `col0 .. col0 + cols` of an NF4 matrix into an "nn" panel.
    fn nf4_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    ) {
        nf4.check(0, nf4.rows, col0, cols);
        check_panel(panel, cols, nf4.rows);
        let whole = nf4.cols.is_multiple_of(64) && cols == NR;
        let level = if whole { level } else { Level::PORTABLE };
        // SAFETY: just checked.
        unsafe { Self::decode_nn(level, nf4, col0, cols, panel) }
    }
}

impl GemmElement for bf16 {
    const GROUP: usize = 2;

    #[inline(always)]
    fn tile_rows(level: Level) -> usize {
        match level.0 {
            #[cfg(target_arch = "x86_64")]
            super::Set::AmxBf16 => super::amx_bf16::ROWS,
            _ => 12,
        }
    }

    unsafe fn tile(
        level: Level,
        rows: usize,
        segments: &[Segment<bf16>],
        out: &mut [f32; MR * NR],
    ) {
        // SAFETY: the caller's promise; a level exists only where the CPU has its features.
        unsafe { on!(level, tile_bf16(rows, segments, out)) }
    }

    unsafe fn narrow_tile(
        level: Level,
        rows: usize,
        segments: &[Segment<bf16>],
        out: &mut [f32; MR * NR],
    ) {
        // Only dot products are fast enough for half the work to be half the time.
        // SAFETY: as for tile.
        unsafe {
            match level.0 {
                #[cfg(target_arch = "x86_64")]
                super::Set::Avx512Bf16 => super::avx512bf16::narrow_tile_bf16(rows, segments, out),
                #[cfg(target_arch = "x86_64")]
                super::Set::AmxBf16 => super::amx_bf16::narrow_tile_bf16(rows, segments, out),
                _ => Self::tile(level, rows, segments, out),
            }
        }
    }

    unsafe fn decode_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [bf16],
    ) {
        // SAFETY: as for tile.
        unsafe { on!(level, nf4_nt_bf16(nf4, row0, rows, panel)) }
    }

    unsafe fn decode_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [bf16],
    ) {
        // SAFETY: as for tile.
        unsafe { on!(level, nf4_nn_bf16(nf4, col0, cols, panel)) }
    }

    fn pack_nt_bf16(
        level: Level,
        data: &[bf16],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [bf16],
    ) {
        Self::pack_nt(level, data, ld, row0, rows, k, panel);
    }

    fn pack_nn_bf16(
        level: Level,
        data: &[bf16],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [bf16],
    ) {
        Self::pack_nn(level, data, ld, k, col0, cols, panel);
    }
}

impl GemmElement for f32 {
    const GROUP: usize = 1;

    unsafe fn tile(level: Level, rows: usize, segments: &[Segment<f32>], out: &mut [f32; MR * NR]) {
        // SAFETY: the caller's promise; a level exists only where the CPU has its features.
        unsafe { on!(level, tile_f32(rows, segments, out)) }
    }

    unsafe fn decode_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [f32],
    ) {
        // SAFETY: as for tile.
        unsafe { on!(level, nf4_nt_f32(nf4, row0, rows, panel)) }
    }

    unsafe fn decode_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [f32],
    ) {
        // SAFETY: as for tile.
        unsafe { on!(level, nf4_nn_f32(nf4, col0, cols, panel)) }
    }

    fn pack_nt_f32(
        level: Level,
        data: &[f32],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [f32],
    ) {
        Self::pack_nt(level, data, ld, row0, rows, k, panel);
    }

    fn pack_nn_f32(
        level: Level,
        data: &[f32],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [f32],
    ) {
        Self::pack_nn(level, data, ld, k, col0, cols, panel);
    }
}

/// An NF4 matrix as the decoders see it: packed codes (high nibble first), blocks of 64 over the
/// flattened elements, and a function from block to scale.
pub struct Nf4Codes<'a, S> {
    pub codes: &'a [u8],
    pub rows: usize,
    pub cols: usize,
    pub scale: S,
    pub codebook: &'a [f32; 16],
}

impl<S: Fn(usize) -> f32> Nf4Codes<'_, S> {
    /// Panics unless the codes cover the matrix, and the matrix these rows and columns.
    fn check(&self, row0: usize, rows: usize, col0: usize, cols: usize) {
        let covered = rows_fit(self.codes.len().saturating_mul(2), self.cols, self.rows, self.cols);
        let inside = |start: usize, count: usize, end| {
            start.checked_add(count).is_some_and(|stop| stop <= end)
        };
        let inside = inside(row0, rows, self.rows) && inside(col0, cols, self.cols);
        assert!(covered && inside, "NF4 matrix too small");
    }

    #[inline(always)]
    pub(super) fn value(&self, row: usize, col: usize) -> f32 {
        let i = row * self.cols + col;
        let byte = self.codes[i / 2];
        let code = if i.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        self.codebook[code as usize] * (self.scale)(i / 64)
    }
}

/// Elements of a panel over a contraction of `k`. Panics when they are more than a usize counts.
pub fn panel_len<E: GemmElement>(k: usize) -> usize {
    k.checked_next_multiple_of(E::GROUP)
        .and_then(|k| k.checked_mul(NR))
        .unwrap_or_else(|| panic!("a panel over k = {k} is too long"))
}

/// Whether `rows` rows of `width` elements at pitch `ld` lie in `len` elements.
///
/// Raw pointers are used on the strength of this, so it must not wrap, whatever the numbers.
pub fn rows_fit(len: usize, ld: usize, rows: usize, width: usize) -> bool {
    let needed = |last: usize| last.checked_mul(ld)?.checked_add(width);
    width <= ld && (rows == 0 || needed(rows - 1).is_some_and(|needed| needed <= len))
}

/// The data from row `row0` on, checked to hold `rows` rows of `k` elements at pitch `ld`.
fn from_row<E>(data: &[E], ld: usize, row0: usize, rows: usize, k: usize) -> &[E] {
    let data = row0.checked_mul(ld).and_then(|start| data.get(start..)).unwrap_or(&[]);
    assert!(rows_fit(data.len(), ld, rows, k), "panel source too short");
    data
}

/// `data` holds columns `col0 .. col0 + cols` of `k` rows at pitch `ld`.
fn check_columns(len: usize, ld: usize, k: usize, col0: usize, cols: usize) {
    let fits = col0.checked_add(cols).is_some_and(|end| rows_fit(len, ld, k, end));
    assert!(fits, "panel source too short");
}

/// The panel is long enough, and `columns` at most its width.
fn check_panel<E: GemmElement>(panel: &[E], columns: usize, k: usize) {
    assert!(columns <= NR && panel.len() >= panel_len::<E>(k), "panel too short");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every level packs, decodes and rounds as the portable one, bit for bit, at its own widths and at
    /// others; what is outside the matrix is zero in both.
    fn panels_are_the_portable_ones<E: GemmElement>() {
        let value = |i: usize| E::from_f32((i * 37 % 1009) as f32 / 64.0 - 7.0);
        let scale = |block: usize| 0.3 + (block * 29 % 31) as f32 / 16.0;
        let codebook: [f32; 16] = std::array::from_fn(|i| (i as f32 - 7.3) / 8.0);
        for (rows, cols) in [(32, 128), (40, 64), (1, 192), (33, 320), (50, 77), (35, 30), (3, 1)] {
            let ld = cols + 3;
            let data: Vec<E> = (0..rows * ld).map(value).collect();
            let codes: Vec<u8> =
                (0..(rows * cols).div_ceil(2)).map(|i| (i * 151 + 7) as u8).collect();
            let nf4 = Nf4Codes { codes: &codes, rows, cols, scale, codebook: &codebook };
            let panels = |level: Level| {
                let mut all = Vec::new();
                for (k, other, nt) in [(cols, rows, true), (rows, cols, false)] {
                    for first in (0..other).step_by(NR) {
                        let count = NR.min(other - first);
                        let mut packed = vec![E::from_f32(f32::NAN); panel_len::<E>(k)];
                        let mut decoded = packed.clone();
                        if nt {
                            E::pack_nt(level, &data, ld, first, count, k, &mut packed);
                            E::nf4_nt(level, &nf4, first, count, &mut decoded);
                        } else {
                            E::pack_nn(level, &data, ld, k, first, count, &mut packed);
                            E::nf4_nn(level, &nf4, first, count, &mut decoded);
                        }
                        all.push((packed, decoded));
                    }
                }
                all
            };
            let want = panels(Level::PORTABLE);
            for level in Level::available() {
                assert!(panels(level) == want, "{level:?}, {} {rows}x{cols}", E::NAME);
            }
        }
        for level in Level::available() {
            let tile: [f32; NR] = std::array::from_fn(|i| (i as f32 - 9.7) * 1.37);
            let mut out = [E::from_f32(0.0); NR];
            E::store(level, &tile, 0.73, &mut out);
            assert_eq!(out, tile.map(|x| E::from_f32(x * 0.73)), "{level:?}");
        }
    }

    #[test]
    fn every_level_packs_the_same_panels() {
        panels_are_the_portable_ones::<bf16>();
        panels_are_the_portable_ones::<f32>();
    }
}
