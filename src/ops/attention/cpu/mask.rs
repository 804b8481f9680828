//! Who sees whom in one tile.

use std::ops::Range;

use super::Dims;

/// Query token i sees key j when `i + offset - window < j ≤ i + offset`.
///
/// Query row r is token r / group. What rows see moves on with them, so what several rows see lies between
/// the first key of the first and the last of the last.
#[derive(Clone, Copy)]
pub(super) struct Mask {
    /// Query rows per token.
    group: usize,
    /// Position of the first query less the position of the first key.
    offset: isize,
    window: usize,
    /// Keys in the tile.
    pub keys: usize,
}

impl Mask {
    /// Of `keys` keys from position `key` on, and queries from position `query` on.
    pub fn new(dims: &Dims, query: usize, key: usize, keys: usize) -> Self {
        let offset = query as isize - key as isize;
        Self { group: dims.group(), offset, window: dims.reach(), keys }
    }

    /// The keys that query row `row` sees.
    #[inline(always)]
    pub fn seen(&self, row: usize) -> Range<usize> {
        self.seen_by(row..row + 1)
    }

    /// The keys that any of these rows sees; no rows are not asked for.
    #[inline(always)]
    pub fn seen_by(&self, rows: Range<usize>) -> Range<usize> {
        let end = |row: usize| (row / self.group) as isize + self.offset + 1;
        let inside = |key: isize| key.clamp(0, self.keys as isize) as usize;
        let start = end(rows.start).saturating_sub_unsigned(self.window);
        inside(start)..inside(end(rows.end - 1))
    }

    /// Whether one of the first `rows` rows sees a key, but not the tile's first: the window's edge is in it.
    pub fn has_edge(&self, rows: usize) -> bool {
        self.seen(rows - 1).start > 0
    }

    /// The query rows that see any of these keys; there may be fewer in the tile.
    #[inline(always)]
    pub fn seeing(&self, keys: Range<usize>) -> Range<usize> {
        let token = |key: usize| key as isize - self.offset;
        let end = token(keys.end - 1).saturating_add_unsigned(self.window);
        let row = |token: isize| (token.max(0) as usize).saturating_mul(self.group);
        row(token(keys.start))..row(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the rule, for every row and every key of tiles before, on and behind the diagonal.
    #[test]
    fn both_directions_are_the_rule() {
        const TOKENS: usize = 7;
        for window in [None, Some(1), Some(2), Some(5), Some(9), Some(usize::MAX)] {
            let dims = Dims { heads: 3, kv_heads: 1, head_dim: 1, scale: 1.0, window };
            for (query, key, keys) in [(0, 0, 7), (0, 4, 8), (4, 0, 3), (9, 0, 9), (20, 0, 6)] {
                let mask = Mask::new(&dims, query, key, keys);
                let sees = |row: usize, j: usize| {
                    let (t, u) = (query + row / 3, key + j);
                    u <= t && window.is_none_or(|window| t - u < window)
                };
                for row in 0..TOKENS * 3 {
                    for j in 0..keys {
                        assert_eq!(mask.seen(row).contains(&j), sees(row, j), "{window:?}");
                        assert_eq!(mask.seeing(j..j + 1).contains(&row), sees(row, j));
                    }
                }
                for rows in [0..4, 2..21] {
                    let any = |j: usize| rows.clone().any(|row| sees(row, j));
                    let seen = mask.seen_by(rows.clone());
                    assert!((0..keys).all(|j| !any(j) || seen.contains(&j)));
                    assert!(seen.is_empty() || any(seen.start) && any(seen.end - 1));
                }
                let seeing = mask.seeing(1..3);
                let any = |row: usize| (1..3).any(|j| sees(row, j));
                assert!((0..TOKENS * 3).all(|row| any(row) == seeing.contains(&row)));
            }
        }
    }
}
