//! The tile GEMM's two primitives: a register tile, and the panels it reads.
//!
//! A panel is 32 columns of the right operand `b[k, n]`, packed so that the tile reads it in order:
//! `panel[k / G][32][G]` with `G` elements of k together (2 for bf16, whose dot product takes
//! pairs; 1 for f32). k is padded with zeros to a multiple of G, columns to 32.
//!
//! "nt": the operand is stored `[n, k]` (a weight in y = x·Wᵀ). "nn": it is stored `[k, n]`
//! (the same weight in dx = dy·W).

use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::avx512bf16;
use super::{Level, plain};
use crate::device::cpu::Element;

/// Columns of a panel.
pub const NR: usize = 32;
/// Most rows of a register tile.
pub const MR: usize = 12;

/// One stretch of the contraction: `a[row, 0..k]` at pitch `lda`, and the panel it meets.
pub struct Segment<E> {
    pub a: *const E,
    pub lda: usize,
    pub k: usize,
    pub panel: *const E,
}

/// An element type that the tile GEMM multiplies. Accumulation is f32.
pub trait GemmElement: Element {
    /// Elements of k that lie together in a panel.
    const GROUP: usize;

    /// `out[r][j] = Σ over segments and k of a[r, k] · panel[k, j]`, rows `0..rows` of `out`.
    ///
    /// # Safety
    /// For every segment: `rows` rows of `k` elements at pitch `lda` are readable from `a`, and
    /// [`panel_len`] elements from `panel`. `rows` is in 1..=12.
    unsafe fn tile(level: Level, rows: usize, segments: &[Segment<Self>], out: &mut [f32; MR * NR]);

    /// Packs rows `row0 .. row0 + rows` of `data[n, k]` (pitch `ld`) into an "nt" panel.
    fn pack_nt(
        level: Level,
        data: &[Self],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [Self],
    );

    /// Packs columns `col0 .. col0 + cols` of `data[k, n]` (pitch `ld`) into an "nn" panel.
    fn pack_nn(
        level: Level,
        data: &[Self],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    );

    /// As `pack_nt`, from bf16 data, widened where `Self` is f32.
    fn pack_nt_bf16(
        level: Level,
        data: &[bf16],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [Self],
    );

    /// As `pack_nn`, from bf16 data, widened where `Self` is f32.
    fn pack_nn_bf16(
        level: Level,
        data: &[bf16],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    );

    /// Decodes rows `row0 .. row0 + rows` of an NF4 matrix into an "nt" panel.
    fn nf4_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [Self],
    );

    /// Decodes columns `col0 .. col0 + cols` of an NF4 matrix into an "nn" panel.
    fn nf4_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [Self],
    );
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
    fn value(&self, row: usize, col: usize) -> f32 {
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

/// Calls one of twelve instances of a const-generic tile.
#[cfg(target_arch = "x86_64")]
macro_rules! by_rows {
    ($tile:ident, $rows:expr, $segments:expr, $out:expr) => {
        match $rows {
            1 => avx512bf16::$tile::<1>($segments, $out),
            2 => avx512bf16::$tile::<2>($segments, $out),
            3 => avx512bf16::$tile::<3>($segments, $out),
            4 => avx512bf16::$tile::<4>($segments, $out),
            5 => avx512bf16::$tile::<5>($segments, $out),
            6 => avx512bf16::$tile::<6>($segments, $out),
            7 => avx512bf16::$tile::<7>($segments, $out),
            8 => avx512bf16::$tile::<8>($segments, $out),
            9 => avx512bf16::$tile::<9>($segments, $out),
            10 => avx512bf16::$tile::<10>($segments, $out),
            11 => avx512bf16::$tile::<11>($segments, $out),
            _ => avx512bf16::$tile::<12>($segments, $out),
        }
    };
}

impl GemmElement for bf16 {
    const GROUP: usize = 2;

    unsafe fn tile(
        level: Level,
        rows: usize,
        segments: &[Segment<bf16>],
        out: &mut [f32; MR * NR],
    ) {
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() {
            // SAFETY: the caller's promise; this level exists only where the CPU has it.
            return unsafe { by_rows!(tile_bf16, rows, segments, out) };
        }
        let _ = level;
        // SAFETY: the caller's promise.
        unsafe { plain::tile_bf16(rows, segments, out) }
    }

    fn pack_nt(
        level: Level,
        data: &[bf16],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [bf16],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        assert!(rows <= NR && panel.len() >= panel_len::<bf16>(k), "panel too short");
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() {
            // SAFETY: lengths checked above; k / 2 dwords a row.
            unsafe {
                avx512bf16::pack_nt(
                    data.as_ptr().cast(),
                    2 * ld,
                    rows,
                    k / 2,
                    panel.as_mut_ptr().cast(),
                )
            };
            done = k / 32 * 32;
        }
        let _ = level;
        plain::pack(done, k, rows, panel, |kk, column| data[column * ld + kk]);
    }

    fn pack_nn(
        level: Level,
        data: &[bf16],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [bf16],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        assert!(cols <= NR && panel.len() >= panel_len::<bf16>(k), "panel too short");
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() && cols == NR {
            for pair in 0..k / 2 {
                // SAFETY: two rows of 32 elements from col0 (checked above); pair row of the panel.
                unsafe {
                    let row = data.as_ptr().add(2 * pair * ld + col0);
                    avx512bf16::interleave(row, row.add(ld), panel.as_mut_ptr().add(pair * 2 * NR))
                };
            }
            done = k / 2 * 2;
        }
        let _ = level;
        plain::pack(done, k, cols, panel, |kk, column| data[kk * ld + col0 + column]);
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

    fn nf4_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [bf16],
    ) {
        nf4.check(row0, rows, 0, nf4.cols);
        assert!(rows <= NR && panel.len() >= panel_len::<bf16>(nf4.cols), "panel too short");
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() && nf4.cols.is_multiple_of(64) {
            let Nf4Codes { codes, cols, scale, codebook, .. } = nf4;
            // SAFETY: the panel's length is checked above; codes are sliced with checks inside.
            unsafe {
                avx512bf16::nf4_nt_bf16(
                    codes,
                    *cols,
                    row0,
                    rows,
                    scale,
                    codebook,
                    panel.as_mut_ptr(),
                )
            };
            return;
        }
        let _ = level;
        plain::pack(0, nf4.cols, rows, panel, |kk, column| {
            bf16::from_f32(nf4.value(row0 + column, kk))
        });
    }

    fn nf4_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [bf16],
    ) {
        nf4.check(0, nf4.rows, col0, cols);
        assert!(cols <= NR && panel.len() >= panel_len::<bf16>(nf4.rows), "panel too short");
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() && nf4.cols.is_multiple_of(64) && cols == NR {
            let Nf4Codes { codes, rows, cols, scale, codebook } = nf4;
            // SAFETY: as in nf4_nt.
            unsafe {
                avx512bf16::nf4_nn_bf16(
                    codes,
                    *cols,
                    *rows,
                    col0,
                    scale,
                    codebook,
                    panel.as_mut_ptr(),
                )
            };
            return;
        }
        let _ = level;
        plain::pack(0, nf4.rows, cols, panel, |kk, column| {
            bf16::from_f32(nf4.value(kk, col0 + column))
        });
    }
}

impl GemmElement for f32 {
    const GROUP: usize = 1;

    unsafe fn tile(level: Level, rows: usize, segments: &[Segment<f32>], out: &mut [f32; MR * NR]) {
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() {
            // SAFETY: the caller's promise; this level exists only where the CPU has it.
            return unsafe { by_rows!(tile_f32, rows, segments, out) };
        }
        let _ = level;
        // SAFETY: the caller's promise.
        unsafe { plain::tile_f32(rows, segments, out) }
    }

    fn pack_nt(
        level: Level,
        data: &[f32],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [f32],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        assert!(rows <= NR && panel.len() >= panel_len::<f32>(k), "panel too short");
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() {
            // SAFETY: lengths checked above; k dwords a row.
            unsafe {
                avx512bf16::pack_nt(
                    data.as_ptr().cast(),
                    4 * ld,
                    rows,
                    k,
                    panel.as_mut_ptr().cast(),
                )
            };
            done = k / 16 * 16;
        }
        let _ = level;
        plain::pack(done, k, rows, panel, |kk, column| data[column * ld + kk]);
    }

    fn pack_nn(
        _level: Level,
        data: &[f32],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [f32],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        assert!(cols <= NR && panel.len() >= panel_len::<f32>(k), "panel too short");
        for (row, out) in data.chunks(ld).zip(panel.chunks_exact_mut(NR)).take(k) {
            out[..cols].copy_from_slice(&row[col0..col0 + cols]);
            out[cols..].fill(0.0);
        }
    }

    fn pack_nt_bf16(
        _level: Level,
        data: &[bf16],
        ld: usize,
        row0: usize,
        rows: usize,
        k: usize,
        panel: &mut [f32],
    ) {
        let data = from_row(data, ld, row0, rows, k);
        assert!(rows <= NR && panel.len() >= panel_len::<f32>(k), "panel too short");
        plain::pack(0, k, rows, panel, |kk, column| data[column * ld + kk].to_f32());
    }

    fn pack_nn_bf16(
        _level: Level,
        data: &[bf16],
        ld: usize,
        k: usize,
        col0: usize,
        cols: usize,
        panel: &mut [f32],
    ) {
        check_columns(data.len(), ld, k, col0, cols);
        assert!(cols <= NR && panel.len() >= panel_len::<f32>(k), "panel too short");
        plain::pack(0, k, cols, panel, |kk, column| data[kk * ld + col0 + column].to_f32());
    }

    fn nf4_nt<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        row0: usize,
        rows: usize,
        panel: &mut [f32],
    ) {
        nf4.check(row0, rows, 0, nf4.cols);
        assert!(rows <= NR && panel.len() >= panel_len::<f32>(nf4.cols), "panel too short");
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() && nf4.cols.is_multiple_of(64) {
            let Nf4Codes { codes, cols, scale, codebook, .. } = nf4;
            // SAFETY: the panel's length is checked above; codes are sliced with checks inside.
            unsafe {
                avx512bf16::nf4_nt_f32(
                    codes,
                    *cols,
                    row0,
                    rows,
                    scale,
                    codebook,
                    panel.as_mut_ptr(),
                )
            };
            return;
        }
        let _ = level;
        plain::pack(0, nf4.cols, rows, panel, |kk, column| nf4.value(row0 + column, kk));
    }

    fn nf4_nn<S: Fn(usize) -> f32>(
        level: Level,
        nf4: &Nf4Codes<S>,
        col0: usize,
        cols: usize,
        panel: &mut [f32],
    ) {
        nf4.check(0, nf4.rows, col0, cols);
        assert!(cols <= NR && panel.len() >= panel_len::<f32>(nf4.rows), "panel too short");
        #[cfg(target_arch = "x86_64")]
        if level.is_avx512bf16() && nf4.cols.is_multiple_of(64) && cols == NR {
            let Nf4Codes { codes, rows, cols, scale, codebook } = nf4;
            // SAFETY: as in nf4_nt.
            unsafe {
                avx512bf16::nf4_nn_f32(
                    codes,
                    *cols,
                    *rows,
                    col0,
                    scale,
                    codebook,
                    panel.as_mut_ptr(),
                )
            };
            return;
        }
        let _ = level;
        plain::pack(0, nf4.rows, cols, panel, |kk, column| nf4.value(kk, col0 + column));
    }
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
