//! From a path to data files, and from a file's first bytes to its format.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::Error;

/// What is looked at of a file to tell its format.
const PREFIX: u64 = 4096;

/// Endings of the files that a directory is searched for.
const ENDINGS: [&str; 4] = ["jsonl", "ndjson", "json", "parquet"];

/// How a file's rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Lines,
    /// One JSON list of objects, or an object with such a list named `data`.
    List,
    Parquet,
}

/// The data files that `path` stands for: itself, or those in the directory, by name. What else is in
/// a directory is named in a warning.
///
/// Errors: the path cannot be read, is a directory without data files, or a dataset on the Hub.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>, Error> {
    if path.starts_with("hf:") {
        return Err(Error::File {
            path: path.into(),
            problem: "is a dataset on the Hub; those are not fetched yet".into(),
            advice: "download it with `hf download ORG/NAME --repo-type dataset --local-dir DIR`, and \
                     give its files",
        });
    }
    let io = |source| Error::Io { path: path.into(), source };
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        return Ok(vec![path.into()]);
    }
    let (mut files, mut others) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?.path();
        let ending = entry.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending {
            Some(ending) if ENDINGS.contains(&ending.as_str()) && entry.is_file() => {
                files.push(entry)
            }
            _ => others.extend(entry.file_name().map(|n| n.to_string_lossy().into_owned())),
        }
    }
    if files.is_empty() {
        return Err(Error::EmptyDirectory(path.into()));
    }
    files.sort();
    others.retain(|name| !name.starts_with('.'));
    others.sort();
    if !others.is_empty() {
        tracing::warn!("not read in {}: {}", path.display(), others.join(", "));
    }
    Ok(files)
}

/// The format of a file, by its first bytes.
///
/// Errors: it cannot be opened, or is something else that is known by its first bytes.
pub fn format(path: &Path) -> Result<Format, Error> {
    let io = |source| Error::Io { path: path.into(), source };
    let mut prefix = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(PREFIX).read_to_end(&mut prefix).map_err(io)?;
    let refused = |problem: &str, advice| {
        Err(Error::File { path: path.into(), problem: problem.into(), advice })
    };
    if prefix.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if let Some((problem, advice)) = known_otherwise(&prefix) {
        return refused(problem, advice);
    }
    let named = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
    if named && !prefix.is_empty() {
        return refused("is named .parquet, but does not begin as such a file does", WHOLE);
    }
    Ok(if is_list(&prefix) { Format::List } else { Format::Lines })
}

/// What to do about a damaged file.
pub const WHOLE: &str = "copy or download the file again";

/// What a file is that is no data file, and what to do about it.
fn known_otherwise(prefix: &[u8]) -> Option<(&'static str, &'static str)> {
    let begins: [(&[u8], _, _); 8] = [
        (b"\x1f\x8b", "is compressed with gzip", "unpack it first: gzip -dk FILE"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it first: zstd -dk FILE"),
        (b"BZh", "is compressed with bzip2", "unpack it first: bzip2 -dk FILE"),
        (b"\xfd7zXZ", "is compressed with xz", "unpack it first: xz -dk FILE"),
        (b"PK\x03\x04", "is a zip archive", "unpack it first"),
        (b"ARROW1", "is an Arrow file", "write it as Parquet or JSON lines"),
        (
            b"version https://git-lfs",
            "is a pointer of Git LFS, not the file itself",
            "git lfs pull",
        ),
        (b"\xff\xfe", "is UTF-16, not UTF-8", "write it anew as UTF-8"),
    ];
    let found = begins.into_iter().find(|(begin, ..)| prefix.starts_with(begin));
    found.map(|(_, problem, advice)| (problem, advice))
}

/// Whether the first bytes are a list's, or an object's that holds one: its first key is `data` with a
/// list behind it, or it is spread over lines.
fn is_list(prefix: &[u8]) -> bool {
    let text = prefix.strip_prefix(b"\xef\xbb\xbf").unwrap_or(prefix).trim_ascii_start();
    let Some(inside) = text.strip_prefix(b"{") else { return text.starts_with(b"[") };
    let key = inside.trim_ascii_start();
    let between = &inside[..inside.len() - key.len()];
    if between.contains(&b'\n') && key.starts_with(b"\"") {
        return true;
    }
    let value = key.strip_prefix(b"\"data\"").map(<[u8]>::trim_ascii_start);
    let value = value.and_then(|rest| rest.strip_prefix(b":"));
    value.is_some_and(|rest| rest.trim_ascii_start().starts_with(b"["))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_lines_are_told_apart() {
        let lists: [&[u8]; 5] = [
            b"[{\"text\"",
            b"\xef\xbb\xbf\n [",
            b"{\"data\": [{",
            b"{ \"data\":\n[",
            b"{\n  \"version\": 1,",
        ];
        for prefix in lists {
            assert!(is_list(prefix), "{}", prefix.escape_ascii());
        }
        let lines: [&[u8]; 6] = [
            b"",
            b"{",
            b"{\"text\": \"a\"}\n{",
            b"{\"data\": 3, ",
            b"{\n{\"text\": \"a\"}",
            b"oops",
        ];
        for prefix in lines {
            assert!(!is_list(prefix), "{}", prefix.escape_ascii());
        }
    }

    #[test]
    fn a_directory_stands_for_its_data_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert!(matches!(expand(dir.path()), Err(Error::EmptyDirectory(_))));
        for name in ["b.jsonl", "a.parquet", "c.JSON", "README.md", ".hidden"] {
            std::fs::write(dir.path().join(name), "").expect("written");
        }
        std::fs::create_dir(dir.path().join("d.json")).expect("made");
        let files = expand(dir.path()).expect("data files");
        let names: Vec<_> = files.iter().filter_map(|f| f.file_name()).collect();
        assert_eq!(names, ["a.parquet", "b.jsonl", "c.JSON"]);
        assert_eq!(expand(&files[1]).expect("a file"), [files[1].clone()]);
    }
}
