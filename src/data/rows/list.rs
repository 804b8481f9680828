//! One JSON list of rows, read row by row: `[{...}, {...}]`, or `{"data": [...]}` as some data sets have
//! it. The list is cut at its commas; what is between them is parsed later, with the other rows.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::lines::MARK;
use super::{MAX_ROW_BYTES, Next, RawRow};
use crate::data::error::{Error, Place, RowProblem};
use crate::data::files::WHOLE;

pub struct List<R = BufReader<File>> {
    path: PathBuf,
    reader: R,
    number: usize,
    position: u64,
    /// A value that was too long is not over yet.
    inside: Option<Scan>,
    /// The list is a member of an object.
    in_object: bool,
    done: bool,
}

impl List {
    /// Reads up to where the first row begins.
    ///
    /// Errors: the file cannot be read, or there is no list.
    pub fn open(path: &Path, file: File) -> Result<Self, Error> {
        Self::of(path, BufReader::with_capacity(1 << 20, file))
    }
}

impl<R: BufRead> List<R> {
    fn of(path: &Path, reader: R) -> Result<Self, Error> {
        let path = path.into();
        let mut list = Self {
            path,
            reader,
            number: 0,
            position: 0,
            inside: None,
            in_object: false,
            done: false,
        };
        let mut first = list.next_byte()?;
        if first == Some(MARK[0]) && list.next_byte()? == Some(MARK[1]) {
            list.next_byte()?;
            first = list.next_byte()?;
        }
        match first {
            Some(b'[') => {}
            Some(b'{') => {
                list.in_object = true;
                list.find_data()?;
            }
            _ => return Err(list.damaged("is neither a list of rows nor an object with one")),
        }
        Ok(list)
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// The object's members up to `"data": [`.
    fn find_data(&mut self) -> Result<(), Error> {
        let mut key = Vec::new();
        loop {
            if self.next_byte()? != Some(b'"') {
                return Err(self.none());
            }
            key.clear();
            key.push(b'"');
            let mut scan = Scan::default();
            scan.step(b'"');
            self.value(&mut scan, &mut key)?;
            if self.next_byte()? != Some(b':') {
                return Err(self.none());
            }
            let first = self.next_byte()?;
            let Some(first) = first else { return Err(self.cut()) };
            if key == b"\"data\"" && first == b'[' {
                return Ok(());
            }
            // Nothing of it is kept.
            let mut scan = Scan::default();
            if !scan.step(first) {
                self.pass(&mut scan)?;
            }
            match self.next_byte()? {
                Some(b',') => {}
                Some(b'}') => return Err(self.none()),
                _ => return Err(self.cut()),
            }
        }
    }

    pub fn next_row(&mut self) -> Result<Next, Error> {
        if self.done {
            return Ok(None);
        }
        if let Some(mut scan) = self.inside.take() {
            self.pass(&mut scan)?;
        }
        let mut first = self.next_byte()?;
        if first == Some(b']') {
            self.done = true;
            return self.end().map(|()| None);
        }
        if self.number > 0 {
            if first != Some(b',') {
                return Err(self.cut());
            }
            first = self.next_byte()?;
        }
        self.number += 1;
        let Some(first) = first.filter(|byte| !matches!(byte, b',' | b']' | b'}' | b':')) else {
            return Err(self.cut());
        };
        let mut scan = Scan::default();
        let mut text = vec![first];
        if !scan.step(first) && !self.value(&mut scan, &mut text)? {
            self.inside = Some(scan);
        }
        let length = text.len();
        let row = match length {
            0..=MAX_ROW_BYTES => RawRow::Json(text),
            _ => RawRow::Bad(RowProblem::TooLarge),
        };
        Ok(Some((Place::Row(self.number), row, length)))
    }

    /// What stands behind the list: the rest of its object, and then nothing, or rows would be lost in silence.
    fn end(&mut self) -> Result<(), Error> {
        let mut next = self.next_byte()?;
        if self.in_object {
            // Other members, of which nothing is kept.
            while let Some(byte) = next.filter(|&byte| byte != b'}') {
                let mut scan = Scan::default();
                if !matches!(byte, b',' | b':') && !scan.step(byte) {
                    self.pass(&mut scan)?;
                }
                next = self.next_byte()?;
            }
            if next.is_none() {
                return Err(self.damaged("is not whole: the object around its list has no end"));
            }
            next = self.next_byte()?;
        }
        match next {
            None => Ok(()),
            Some(_) => Err(self.damaged("goes on behind its list of rows")),
        }
    }

    /// Reads on to the end of a value, into `text`. False: it is too long, and not at its end yet.
    fn value(&mut self, scan: &mut Scan, text: &mut Vec<u8>) -> Result<bool, Error> {
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Err(self.cut());
            }
            let (length, over) = scan.run(buffer);
            text.extend_from_slice(&buffer[..length]);
            self.consume(length);
            if over {
                return Ok(true);
            }
            if text.len() > MAX_ROW_BYTES {
                return Ok(false);
            }
        }
    }

    /// Reads on to the end of a value.
    fn pass(&mut self, scan: &mut Scan) -> Result<(), Error> {
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Err(self.cut());
            }
            let (length, over) = scan.run(buffer);
            self.consume(length);
            if over {
                return Ok(());
            }
        }
    }

    /// The next byte that is no white space.
    fn next_byte(&mut self) -> Result<Option<u8>, Error> {
        loop {
            let buffer = self.fill()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let found = buffer.iter().position(|byte| !byte.is_ascii_whitespace());
            let byte = found.map(|at| buffer[at]);
            let length = found.map_or(buffer.len(), |at| at + 1);
            self.consume(length);
            if byte.is_some() {
                return Ok(byte);
            }
        }
    }

    fn fill(&mut self) -> Result<&[u8], Error> {
        let path = &self.path;
        self.reader.fill_buf().map_err(|source| Error::Io { path: path.clone(), source })
    }

    fn consume(&mut self, length: usize) {
        self.reader.consume(length);
        self.position += length as u64;
    }

    fn damaged(&self, problem: &str) -> Error {
        Error::File { path: self.path.clone(), problem: problem.into(), advice: WHOLE }
    }

    /// The list ends where it should not.
    fn cut(&self) -> Error {
        let problem = match self.number {
            0 => "is not whole: its list of rows does not begin as one".into(),
            number => format!("is not whole: its list breaks off in or behind row {number}"),
        };
        self.damaged(&problem)
    }

    fn none(&self) -> Error {
        Error::File {
            path: self.path.clone(),
            problem: "is a JSON object without a list named `data`".into(),
            advice: "write a list of rows, or one row a line",
        }
    }
}

/// Where a JSON value ends, found without understanding it.
#[derive(Default)]
struct Scan {
    depth: usize,
    string: bool,
    escaped: bool,
    /// A number or a word, which only what follows it ends.
    bare: bool,
}

impl Scan {
    /// Takes the bytes of a value: how many are its own, and whether it ends with them.
    fn run(&mut self, bytes: &[u8]) -> (usize, bool) {
        for (i, &byte) in bytes.iter().enumerate() {
            if self.bare && (byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}')) {
                return (i, true);
            }
            if self.step(byte) {
                return (i + 1, true);
            }
        }
        (bytes.len(), false)
    }

    /// Takes one byte; true if the value ends with it.
    fn step(&mut self, byte: u8) -> bool {
        if self.string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.string = false,
                _ => {}
            }
            return !self.string && self.depth == 0;
        }
        match byte {
            b'"' => self.string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ if self.depth == 0 => self.bare = true,
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows, or what is wrong behind them. Read in pieces of `piece` bytes.
    fn rows(text: &str, piece: usize) -> (Vec<String>, Option<String>) {
        let reader = BufReader::with_capacity(piece, text.as_bytes());
        let mut rows = Vec::new();
        let mut list = match List::of(Path::new("rows"), reader) {
            Ok(list) => list,
            Err(error) => return (rows, Some(error.to_string())),
        };
        loop {
            match list.next_row() {
                Ok(Some((place, RawRow::Json(text), _))) => {
                    assert_eq!(place, Place::Row(rows.len() + 1));
                    rows.push(String::from_utf8(text).expect("text"));
                }
                Ok(Some(_)) => rows.push("bad".into()),
                Ok(None) => return (rows, None),
                Err(error) => return (rows, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn lists_are_cut_at_their_commas() {
        let tricky = r#"{"a": "],}\"\\", "b": [[1, 2], {"c": "{"}]}"#;
        let lists = [
            format!("[{tricky},{tricky}, 3 ,\"x,\\\"]\",null,[]]"),
            format!("\u{feff} [\n{tricky}\n,\r\n{tricky},3,\"x,\\\"]\",null , [] ]\n"),
            format!("{{\"data\":[{tricky},{tricky},3,\"x,\\\"]\",null,[]]}}"),
            format!(
                "{{\n \"version\": \"1,}}\", \"n\": 3, \"list\": [{{}}], \"data\": [{tricky},{tricky},3,\"x,\\\"]\",null,[]], \"more\": 1}}"
            ),
        ];
        for text in &lists {
            for piece in [1, 2, 7, 1000] {
                let want = [tricky, tricky, "3", "\"x,\\\"]\"", "null", "[]"];
                assert_eq!(rows(text, piece), (want.map(String::from).to_vec(), None), "{text}");
            }
        }
        assert_eq!(rows("[]", 9), (vec![], None));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let cases = [
            ("[{\"a\": 1}, {\"b\"", 1, "is not whole: its list breaks off in or behind row 2"),
            ("[{\"a\": 1}", 1, "is not whole: its list breaks off in or behind row 1"),
            ("[{\"a\": 1} {\"b\": 2}]", 1, "is not whole: its list breaks off in or behind row 1"),
            ("[{\"a\": 1},]", 1, "is not whole: its list breaks off in or behind row 2"),
            ("[{\"a\": 1}] [{\"b\": 2}]", 1, "goes on behind its list of rows"),
            ("{\"data\": [1]} {}", 1, "goes on behind its list of rows"),
            (
                "{\"data\": [1], \"n\": [2",
                1,
                "is not whole: its list breaks off in or behind row 1",
            ),
            (
                "{\"data\": [1], \"n\": \"2\"",
                1,
                "is not whole: the object around its list has no end",
            ),
            ("{\n \"a\": 1\n}", 0, "is a JSON object without a list named `data`"),
            ("{\"data\": {}}", 0, "is a JSON object without a list named `data`"),
            ("{\n \"a\": [1, ", 0, "is not whole: its list of rows does not begin as one"),
        ];
        for (text, read, want) in cases {
            let (rows, problem) = rows(text, 5);
            assert_eq!(rows.len(), read, "{text}");
            assert_eq!(problem.as_deref(), Some(format!("rows {want}").as_str()), "{text}");
        }
    }

    #[test]
    fn too_long_a_row_is_passed_over() {
        let long = format!("[1, {{\"a\": \"{}\"}}, 2]", "x".repeat(MAX_ROW_BYTES));
        let (rows, problem) = rows(&long, 1 << 16);
        let shown: Vec<_> = rows.iter().map(|row| &row[..row.len().min(9)]).collect();
        assert_eq!((shown, problem), (vec!["1", "bad", "2"], None));
    }
}
