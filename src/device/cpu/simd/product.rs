//! The register tile on slices, checked: for ops whose operands lie in their own scratch.

use half::bf16;

use super::{GemmElement, Level, MR, NARROW, NR, Segment, panel_len, rows_fit};

/// Rows of 32 columns: the sums of a register tile, as many rows of them as it has.
pub type Tile = [f32; MR * NR];

/// Most rows of a product on this level.
#[inline(always)]
pub fn tile_rows(level: Level) -> usize {
    bf16::tile_rows(level)
}

/// One stretch of a contraction: `a[row, 0..k]` at pitch `lda`, and the panel it meets.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub a: &'a [bf16],
    pub lda: usize,
    pub k: usize,
    pub panel: &'a [bf16],
}

/// Most parts of a product.
pub const MAX_PARTS: usize = 8;

/// `out[r][j] = Σ over parts and k of a[r, k] · panel[k, j]`, rows `0..rows` of `out`, `columns` of
/// them wanted; see [`GemmElement::tile`].
///
/// Panics when a slice is too short, `rows` not in `1..=tile_rows(level)`, or there are more than
/// [`MAX_PARTS`].
#[inline]
pub fn product<'a>(
    level: Level,
    rows: usize,
    columns: usize,
    parts: impl ExactSizeIterator<Item = Part<'a>>,
    out: &mut Tile,
) {
    assert!((1..=tile_rows(level)).contains(&rows), "rows of a tile");
    let mut segments: [Segment<bf16>; MAX_PARTS] = std::array::from_fn(|_| Segment {
        a: out.as_ptr().cast(),
        lda: 0,
        k: 0,
        panel: out.as_ptr().cast(),
    });
    let count = parts.len();
    for (segment, Part { a, lda, k, panel }) in segments[..count].iter_mut().zip(parts) {
        assert!(rows_fit(a.len(), lda, rows, k), "a too short");
        assert!(panel.len() >= panel_len::<bf16>(k), "panel too short");
        *segment = Segment { a: a.as_ptr(), lda, k, panel: panel.as_ptr() };
    }
    let segments = &segments[..count];
    // SAFETY: lengths and rows were checked.
    unsafe {
        match columns <= NARROW {
            true => bf16::narrow_tile(level, rows, segments, out),
            false => bf16::tile(level, rows, segments, out),
        }
    }
}

/// Rows of a matrix that [`turn`] takes at a time.
pub const TURNED: usize = 64;

/// Transposes `rows` rows of `columns` columns from `column`: `out[c][r] = data[r][column + c]`, out
/// at a pitch of [`TURNED`]. At most 64 rows and 32 columns; what is beyond them in `out` is
/// arbitrary.
///
/// Packing pairs the rows; packing those pairs as if each were one number of a matrix in the other
/// direction turns them.
pub fn turn(
    level: Level,
    rows: usize,
    data: &[bf16],
    ld: usize,
    column: usize,
    columns: usize,
    out: &mut [bf16; TURNED * NR],
) {
    let mut pairs = [bf16::ZERO; TURNED * NR];
    bf16::pack_nn(level, data, ld, rows, column, columns, &mut pairs);
    bf16::pack_nt(level, &pairs, 2 * NR, 0, rows.div_ceil(2), 2 * NR, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turning_swaps_rows_and_columns() {
        let value = |i: usize| bf16::from_bits((i % 251) as u16 + 0x3f80);
        for level in Level::available() {
            for (rows, columns, column) in [(64, 32, 0), (1, 32, 3), (63, 16, 0), (40, 5, 7)] {
                let ld = column + columns + 2;
                let data: Vec<bf16> = (0..rows * ld).map(value).collect();
                let mut out = [bf16::NAN; TURNED * NR];
                turn(level, rows, &data, ld, column, columns, &mut out);
                for c in 0..columns {
                    for r in 0..rows {
                        assert_eq!(out[c * TURNED + r], data[r * ld + column + c], "{level:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn slices_too_short_are_refused() {
        let level = Level::PORTABLE;
        let mut out = [0.0; MR * NR];
        let mut refused = |rows: usize, a: usize, panel: usize, parts: usize| {
            let (a, panel) = (vec![bf16::ONE; a], vec![bf16::ONE; panel]);
            let part = Part { a: &a, lda: 5, k: 3, panel: &panel };
            let parts = std::iter::repeat_n(part, parts);
            let run = || product(level, rows, NR, parts, &mut out);
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
        };
        assert!(!refused(2, 8, 128, 2));
        assert!(refused(2, 7, 128, 1) && refused(2, 8, 127, 1) && refused(2, 8, 128, 9));
        assert!(refused(0, 8, 128, 1) && refused(tile_rows(level) + 1, 999, 128, 1));
    }
}
