//! What is wrong with a PTX text, and where.

/// A text that is not PTX, or PTX that the virtual GPU does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}, column {column}: expected {expected}, found {found} in: {text}")]
pub struct ParseError {
    /// Line of the text, from 1.
    pub line: u32,
    /// Byte in the line, from 1.
    pub column: u32,
    /// What could have stood there.
    pub expected: String,
    /// What stands there.
    pub found: String,
    /// The line, without the blanks around it; its beginning if it is long.
    pub text: String,
}

/// A line is quoted up to so many characters.
const QUOTED: usize = 200;

impl ParseError {
    /// The error at a byte of `text`, in line `line` of it.
    pub(super) fn at(text: &str, pos: usize, line: u32, expected: String, found: String) -> Self {
        let bytes = text.as_bytes();
        let pos = pos.min(bytes.len());
        let start = bytes[..pos].iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let end = bytes[pos..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |i| pos + i);
        // Both ends are beside a line break, so the slice is on character boundaries.
        let text = text.get(start..end).unwrap_or("").trim().chars().take(QUOTED).collect();
        let column = u32::try_from(pos - start + 1).unwrap_or(u32::MAX);
        ParseError { line, column, expected, found, text }
    }
}
