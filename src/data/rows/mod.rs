//! The rows of one file, some at a time, in any format.

mod lines;
mod list;
#[cfg(feature = "parquet")]
mod parquet;

use std::fs::File;
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::error::{Error, Place, RowProblem};
use super::files::{self, Format};
use super::records;

/// The longest row, in bytes of its JSON: what is longer is hardly a row, and would have to lie in
/// memory as a whole.
pub const MAX_ROW_BYTES: usize = 32_000_000;

/// Rows read at a time, and bytes of them, whichever is reached first.
const CHUNK_ROWS: usize = 4096;
const CHUNK_BYTES: usize = 8 << 20;

/// A row as it was read, not yet understood.
pub enum RawRow {
    /// The text of a JSON value.
    Json(Vec<u8>),
    #[cfg(feature = "parquet")]
    Parquet(::parquet::record::Row),
    /// What could not even be read.
    Bad(RowProblem),
}

impl RawRow {
    /// The row's keys and values.
    pub fn object(&self) -> Result<Map<String, Value>, RowProblem> {
        match self {
            RawRow::Json(text) => records::object(text),
            #[cfg(feature = "parquet")]
            RawRow::Parquet(row) => parquet::object(row),
            RawRow::Bad(problem) => Err(problem.clone()),
        }
    }
}

/// Reads a file's rows.
pub enum Reader {
    Lines(lines::Lines),
    List(list::List),
    #[cfg(feature = "parquet")]
    Parquet(Box<parquet::Table>),
}

impl Reader {
    /// Opens a file; its first bytes say what it is. Of a table only the columns that a row can use are
    /// read.
    ///
    /// Errors: the file cannot be read, or is not of a known format.
    pub fn open(path: &Path, columns: &Columns) -> Result<Self, Error> {
        let format = files::format(path)?;
        let file = File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
        match format {
            Format::Lines => Ok(Reader::Lines(lines::Lines::new(path, file))),
            Format::List => Ok(Reader::List(list::List::open(path, file)?)),
            #[cfg(feature = "parquet")]
            Format::Parquet => {
                Ok(Reader::Parquet(Box::new(parquet::Table::open(path, file, columns)?)))
            }
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => {
                let _ = columns;
                Err(Error::File {
                    path: path.into(),
                    problem: "is a Parquet file, which this build does not read".into(),
                    advice: "build dayrun with the feature `parquet`, or write the rows as JSON lines",
                })
            }
        }
    }

    /// The next rows, each with its place. None: the end of the file.
    ///
    /// Errors: the file cannot be read, or is damaged from there on.
    pub fn chunk(&mut self) -> Result<Vec<(Place, RawRow)>, Error> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while rows.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            let next = match self {
                Reader::Lines(reader) => reader.next_row()?,
                Reader::List(reader) => reader.next_row()?,
                #[cfg(feature = "parquet")]
                Reader::Parquet(reader) => reader.next_row()?,
            };
            let Some((place, row, length)) = next else { break };
            let bad = matches!(row, RawRow::Bad(_));
            rows.push((place, row));
            bytes += length;
            // It may end the reading: nobody waits for what is behind it.
            if bad {
                break;
            }
        }
        Ok(rows)
    }

    /// The bytes read so far, about, to compare with the file's length.
    pub fn position(&self) -> u64 {
        match self {
            Reader::Lines(reader) => reader.position(),
            Reader::List(reader) => reader.position(),
            #[cfg(feature = "parquet")]
            Reader::Parquet(reader) => reader.position(),
        }
    }
}

/// A row, where it stands, and its bytes, about.
type Next = Option<(Place, RawRow, usize)>;
