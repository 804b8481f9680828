//! Parquet: a table whose columns are a row's keys. Only those that a row can use are read.
//!
//! The parquet crate panics on some damaged files; every call into it is guarded.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Number, Value};

use super::{MAX_ROW_BYTES, Next, RawRow};
use crate::data::columns::Columns;
use crate::data::error::{Error, Place, RowProblem};
use crate::data::files::WHOLE;

pub struct Table {
    path: PathBuf,
    rows: RowIter<'static>,
    number: usize,
    total: usize,
    bytes: u64,
}

impl Table {
    /// Reads the file's end, which says what is in it.
    ///
    /// Errors: the file cannot be read, is not whole, or has no column that a row can use.
    pub fn open(path: &Path, file: File, columns: &Columns) -> Result<Self, Error> {
        let damaged = |problem| damaged(path, problem);
        let bytes =
            file.metadata().map_err(|source| Error::Io { path: path.into(), source })?.len();
        let reader = guard(|| SerializedFileReader::new(file)).map_err(damaged)?;
        let metadata = reader.metadata().file_metadata();
        let total = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let schema = metadata.schema_descr().root_schema().clone();
        let used = used(&schema, columns);
        if used.is_empty() && total > 0 {
            let names: Vec<_> =
                schema.get_fields().iter().take(8).map(|f| format!("`{}`", f.name())).collect();
            return Err(Error::Row {
                path: path.into(),
                place: Place::Row(1),
                problem: RowProblem::Kind(names.join(", ")),
            });
        }
        let rows = guard(|| {
            let part = Type::group_type_builder(schema.name()).with_fields(used).build()?;
            RowIter::from_file_into(Box::new(reader)).project(Some(part))
        });
        Ok(Self { path: path.into(), rows: rows.map_err(damaged)?, number: 0, total, bytes })
    }

    pub fn position(&self) -> u64 {
        (u128::from(self.bytes) * self.number as u128 / self.total.max(1) as u128) as u64
    }

    pub fn next_row(&mut self) -> Result<Next, Error> {
        let next = guard(|| self.rows.next().transpose());
        let at = |problem| damaged(&self.path, format!("{problem}, in row {}", self.number + 1));
        let Some(row) = next.map_err(at)? else {
            if self.number < self.total {
                let problem = format!("it ends behind row {} of {}", self.number, self.total);
                return Err(damaged(&self.path, problem));
            }
            return Ok(None);
        };
        self.number += 1;
        let length = row.get_column_iter().map(|(_, field)| size(field)).sum();
        let row = match length {
            0..=MAX_ROW_BYTES => RawRow::Parquet(row),
            _ => RawRow::Bad(RowProblem::TooLarge),
        };
        Ok(Some((Place::Row(self.number), row, length)))
    }
}

fn damaged(path: &Path, problem: String) -> Error {
    let problem = format!("is not a whole Parquet file: {problem}");
    Error::File { path: path.into(), problem, advice: WHOLE }
}

/// A call into the parquet crate; a panic there is a problem of the file like any other.
fn guard<T>(f: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| match error {
            ParquetError::General(text) | ParquetError::EOF(text) => text,
            other => other.to_string(),
        }),
        Err(_) => Err("it made the parquet reader fail".into()),
    }
}

/// The columns that a row can use.
fn used(schema: &Type, columns: &Columns) -> Vec<Arc<Type>> {
    let names: Vec<&str> = Columns::known().into_iter().map(|name| columns.theirs(name)).collect();
    let used = |field: &&Arc<Type>| names.contains(&field.name()) || field.name() == "history";
    schema.get_fields().iter().filter(used).cloned().collect()
}

/// A row's keys and values, as JSON has them.
///
/// Errors: bytes that are no text.
pub fn object(row: &Row) -> Result<Map<String, Value>, RowProblem> {
    row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(name, field)?))).collect()
}

/// As [`object`], nulls left out: all rows of a table have the same fields, so that a tool has a null for
/// each parameter of every other tool.
fn group(row: &Row) -> Result<Map<String, Value>, RowProblem> {
    let given = row.get_column_iter().filter(|(_, field)| !matches!(field, Field::Null));
    given.map(|(name, field)| Ok((name.clone(), value(name, field)?))).collect()
}

fn value(name: &str, field: &Field) -> Result<Value, RowProblem> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float(n) => float(f64::from(*n)),
        Field::Double(n) => float(*n),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => {
                let problem = "holds bytes that are no UTF-8 text".into();
                return Err(RowProblem::Key { key: name.into(), problem });
            }
        },
        Field::Group(row) => Value::Object(group(row)?),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|f| value(name, f)).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let pair = |(key, of): &(Field, Field)| Ok((key.to_string(), value(name, of)?));
            Value::Object(map.entries().iter().map(pair).collect::<Result<_, RowProblem>>()?)
        }
        // Dates, decimals and the like: no row can use one, and what is wrong is said by its key.
        other => other.to_string().into(),
    })
}

/// About the bytes of a value.
fn size(field: &Field) -> usize {
    match field {
        Field::Str(text) => text.len(),
        Field::Bytes(bytes) => bytes.len(),
        Field::Group(row) => row.get_column_iter().map(|(_, field)| size(field)).sum(),
        Field::ListInternal(list) => list.elements().iter().map(size).sum(),
        Field::MapInternal(map) => map.entries().iter().map(|(k, v)| size(k) + size(v)).sum(),
        _ => 8,
    }
}
