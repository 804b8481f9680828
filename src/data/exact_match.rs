//! Exact match: does a generated answer equal the expected one, surrounding white space apart?

/// Whether `answer` is `expected`, letter for letter, after both are trimmed.
pub fn exact_match(answer: &str, expected: &str) -> bool {
    answer.trim() == expected.trim()
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
}
