//! Files of rows: JSON lines, JSON lists, and Parquet.

use std::path::{Path, PathBuf};

use dayrun::data::records::{Kind, Record, from_object, parse};
use dayrun::data::rows::{RawRow, Reader};
use dayrun::data::{Columns, Error, Place};

use super::common::Rng;
use super::records::{check_record, row, write};
use super::{Budget, check_message, for_each_input, in_memory, json, mutate};

/// A buffer of a MiB to read through; a row of two bytes takes some 80 in a list that doubles.
const BUDGET: Budget = Budget { fixed: (1 << 20) + (64 << 10), per_byte: 300 };

/// All rows of a file, each with its place.
fn read(path: &Path) -> Result<Vec<(Place, RawRow)>, Error> {
    let mut reader = Reader::open(path, &Columns::default())?;
    let mut all = Vec::new();
    loop {
        let rows = reader.chunk()?;
        if rows.is_empty() {
            return Ok(all);
        }
        all.extend(rows);
    }
}

/// Checks a refusal of a file.
fn check_refusal(error: &Error, len: usize, path: &Path) {
    check_message(&error.to_string(), len, &[&path.display().to_string()]);
    assert!(!matches!(error, Error::Io { .. }), "{error}");
}

/// Damaged or not, the text of a row that is one line and not blank.
fn line(rng: &mut Rng) -> Vec<u8> {
    loop {
        let mut line = row(rng).into_bytes();
        if json::one_in(rng, 3) {
            mutate::bytes(rng, &mut line);
        }
        line.retain(|byte| *byte != b'\n');
        let line = line.trim_ascii();
        // A mark of byte order is none of the row's where it comes first.
        if !line.is_empty() && !line.starts_with(b"\xef\xbb\xbf") {
            return line.to_vec();
        }
    }
}

/// Lines come out byte for byte, with their numbers, whatever ends them and whatever is in them.
#[test]
fn lines_keep_their_numbers_and_bytes() {
    let dir = in_memory();
    let path = dir.path().join("rows.jsonl");
    for_each_input("lines", 2000, |rng| {
        // The first row says what the file is.
        let mut text: Vec<u8> = Vec::new();
        let mut wanted = vec![(1, br#"{"text": "a"}"#.to_vec())];
        if json::one_in(rng, 8) {
            text.extend(b"\xef\xbb\xbf");
        }
        text.extend(&wanted[0].1);
        for number in 2..2 + rng.below(12) {
            text.extend([&b"\n"[..], b"\r\n", b" \n"][rng.below(3)]);
            match rng.below(5) {
                0 => text.extend(b" \t\r".repeat(rng.below(3))),
                _ => {
                    let line = line(rng);
                    text.extend(&line);
                    wanted.push((number, line));
                }
            }
        }
        if json::one_in(rng, 2) {
            text.push(b'\n');
        }
        std::fs::write(&path, &text).expect("writes");
        let rows = BUDGET.hold(text.len(), || read(&path)).expect("lines");
        let found: Vec<_> = rows
            .into_iter()
            .map(|(place, row)| match (place, row) {
                (Place::Line(number), RawRow::Json(text)) => (number, text),
                (place, _) => panic!("no line at {place}"),
            })
            .collect();
        assert!(found == wanted, "{}", text.escape_ascii());
        json::one_in(rng, 2)
    });
}

/// A list gives its items, and one that is not whole is refused. Damage may make anything of it.
#[test]
fn lists_give_their_rows_or_are_refused() {
    let dir = in_memory();
    let path = dir.path().join("rows.json");
    for_each_input("lists", 2000, |rng| {
        let count = rng.below(8);
        let mut items: Vec<String> = Vec::new();
        for _ in 0..count {
            // What JSON would refuse is not cut where it ends.
            let item = match rng.below(5) {
                0 => json::value(rng, 2),
                _ => row(rng),
            };
            if serde_json::from_str::<serde::de::IgnoredAny>(&item).is_ok() {
                items.push(item);
            }
        }
        let comma = [",", ", ", "\n,\n", ",\r\n  "][rng.below(4)];
        let list = format!("[{}]", items.join(comma));
        let text = match rng.below(3) {
            0 => format!("{{\"data\": {list}, \"n\": 1}}"),
            1 => format!("{{\n\"version\": \"x\", \"data\": {list}}}"),
            _ => list,
        };
        let mut text = text.into_bytes();
        let damaged = json::one_in(rng, 2);
        if damaged {
            mutate::bytes(rng, &mut text);
        }
        std::fs::write(&path, &text).expect("writes");
        match BUDGET.hold(text.len(), || read(&path)) {
            Err(error) => {
                assert!(damaged, "{error}\n{}", text.escape_ascii());
                check_refusal(&error, text.len(), &path);
                false
            }
            Ok(rows) => {
                let rows: Vec<&[u8]> = rows
                    .iter()
                    .map(|(_, row)| match row {
                        RawRow::Json(text) => text.as_slice(),
                        _ => panic!("a row that is none"),
                    })
                    .collect();
                let whole: usize = rows.iter().map(|row| row.len()).sum();
                assert!(whole <= text.len());
                if !damaged {
                    let items: Vec<&[u8]> = items.iter().map(|item| item.as_bytes()).collect();
                    assert_eq!(rows, items);
                }
                true
            }
        }
    });
}

/// What a damaged table's reader may hold: its pages are decompressed, to a length that the file says.
#[cfg(feature = "parquet")]
const TABLE: Budget = Budget { fixed: 4 << 20, per_byte: 4096 };

/// The tables that another library wrote, each damaged a little. What is read of them makes records that
/// can be written and read again.
#[cfg(feature = "parquet")]
#[test]
fn damaged_tables_are_refused_or_read_back() {
    quiet_about_parquet();
    let dir = in_memory();
    let path = dir.path().join("rows.parquet");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rows");
    let mut tables: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the golden rows")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "parquet"))
        .collect();
    tables.sort();
    let tables: Vec<Vec<u8>> = tables.iter().map(|p| std::fs::read(p).expect("reads")).collect();
    for_each_input("parquet", 400, |rng| {
        let mut bytes = tables[rng.below(tables.len())].clone();
        if !json::one_in(rng, 6) {
            mutate::bytes(rng, &mut bytes);
        }
        std::fs::write(&path, &bytes).expect("writes");
        let read = || -> Result<Vec<(Kind, Record)>, Error> {
            let mut records = Vec::new();
            for (_, row) in read(&path)? {
                let record = row.object().and_then(|o| from_object(o, None, &Columns::default()));
                match record {
                    Ok(record) => records.push(record),
                    Err(problem) => check_message(&problem.to_string(), bytes.len(), &[]),
                }
            }
            Ok(records)
        };
        match TABLE.hold(bytes.len(), read) {
            Err(error) => {
                check_refusal(&error, bytes.len(), &path);
                false
            }
            Ok(records) => {
                for (kind, record) in records {
                    check_record(&record);
                    let again = write(kind, &record);
                    assert_eq!(parse(again.as_bytes(), Some(kind)), Ok((kind, record)), "{again}");
                }
                true
            }
        }
    });
}

/// The parquet crate panics on some damaged files, which is caught; a million messages say nothing more.
#[cfg(feature = "parquet")]
fn quiet_about_parquet() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |place| place.file());
        if file.starts_with("tests/") || file.starts_with("src/") {
            usual(info);
        }
    }));
}
