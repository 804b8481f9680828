//! Exact match: does a generated answer equal the expected one, surrounding white space apart?

/// Whether `answer` is `expected`, letter for letter, after both are trimmed.
pub fn exact_match(answer: &str, expected: &str) -> bool {
    answer.trim() == expected.trim()
}

/// How many of how many answers match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactMatch {
    pub matched: usize,
    pub rows: usize,
}

impl ExactMatch {
    /// Counts one answer.
    pub fn add(&mut self, answer: &str, expected: &str) {
        self.rows += 1;
        self.matched += usize::from(exact_match(answer, expected));
    }

    /// The share in 0 ..= 1; `None` of no rows at all.
    pub fn rate(&self) -> Option<f64> {
        (self.rows > 0).then(|| self.matched as f64 / self.rows as f64)
    }
}

impl std::ops::Add for ExactMatch {
    type Output = Self;

    /// Two parts of one set of rows.
    fn add(self, other: Self) -> Self {
        Self { matched: self.matched + other.matched, rows: self.rows + other.rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_surrounding_white_space_is_forgiven() {
        assert!(exact_match(" {\"a\":1}\n", "{\"a\":1}"));
        assert!(!exact_match("{\"a\": 1}", "{\"a\":1}"));
        assert!(!exact_match("{\"a\":1}{", "{\"a\":1}"));
        assert!(!exact_match("{\"A\":1}", "{\"a\":1}"));
        assert!(!exact_match("", "{\"a\":1}"));
    }

    #[test]
    fn rates() {
        let mut part = ExactMatch::default();
        assert_eq!(part.rate(), None);
        part.add("x", "x");
        part.add("y", "x");
        assert_eq!(part.rate(), Some(0.5));
        assert_eq!((part + part).rows, 4);
    }
}
