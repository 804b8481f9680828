//! JSON lines: one row a line; blank lines are passed over, and so is a byte order mark before the first.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{MAX_ROW_BYTES, Next, RawRow};
use crate::data::error::{Error, Place, RowProblem};

/// The byte order mark, in UTF-8.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

pub struct Lines<R = BufReader<File>> {
    path: PathBuf,
    reader: R,
    number: usize,
    position: u64,
    /// The line that was read last was too long, and what is left of it comes next.
    inside: bool,
}

impl Lines {
    pub fn new(path: &Path, file: File) -> Self {
        Self::of(path, BufReader::with_capacity(1 << 20, file))
    }
}

impl<R: BufRead> Lines<R> {
    fn of(path: &Path, reader: R) -> Self {
        Self { path: path.into(), reader, number: 0, position: 0, inside: false }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn next_row(&mut self) -> Result<Next, Error> {
        self.next_line().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    fn next_line(&mut self) -> std::io::Result<Next> {
        if std::mem::take(&mut self.inside) {
            self.position += self.reader.skip_until(b'\n')? as u64;
        }
        loop {
            let mut line = Vec::new();
            let mut limited = self.reader.by_ref().take(MAX_ROW_BYTES as u64 + 2);
            let length = limited.read_until(b'\n', &mut line)?;
            self.position += length as u64;
            self.number += 1;
            let place = Place::Line(self.number);
            self.inside = line.last() != Some(&b'\n') && length > MAX_ROW_BYTES;
            if self.inside {
                return Ok(Some((place, RawRow::Bad(RowProblem::TooLarge), length)));
            }
            if length == 0 {
                return Ok(None);
            }
            if self.number == 1 && line.starts_with(MARK) {
                line.drain(..MARK.len());
            }
            line.truncate(line.trim_ascii_end().len());
            line.drain(..line.len() - line.trim_ascii_start().len());
            if !line.is_empty() {
                return Ok(Some((place, RawRow::Json(line), length)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Vec<(Place, String)> {
        let mut lines = Lines::of(Path::new("rows"), text);
        let mut rows = Vec::new();
        while let Some((place, row, _)) = lines.next_row().expect("in memory") {
            let row = match row {
                RawRow::Json(text) => String::from_utf8_lossy(&text).into_owned(),
                _ => "bad".into(),
            };
            rows.push((place, row));
        }
        assert_eq!(lines.position(), text.len() as u64);
        rows
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = b"\xef\xbb\xbf {\"a\": 1}\r\n\n   \n{\"b\": 2}  \nlast";
        let want = [(1, "{\"a\": 1}"), (4, "{\"b\": 2}"), (5, "last")];
        assert_eq!(rows(text), want.map(|(line, text)| (Place::Line(line), text.to_string())));
        assert!(rows(b"").is_empty() && rows(b"\n\n").is_empty());
    }

    #[test]
    fn too_long_a_line_is_passed_over() {
        let longest = "x".repeat(MAX_ROW_BYTES);
        let text = format!("a\n{longest}\n{longest}xyz\nb\n{longest}xyz");
        let rows = rows(text.as_bytes());
        let shown: Vec<_> = rows.iter().map(|(place, row)| (place.number(), &row[..1])).collect();
        assert_eq!(shown, [(1, "a"), (2, "x"), (3, "b"), (4, "b"), (5, "b")]);
        assert_eq!((rows[2].1.as_str(), rows[3].1.as_str()), ("bad", "b"));
        assert_eq!(rows[4].1, "bad");
    }
}
