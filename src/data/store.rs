//! The tokens of all documents, in one row: in memory while they are few, else in a file.
//!
//! A document is its tokens and their loss mask, one `u32` each: the id, and in the top bit whether
//! the loss counts it. What stays in memory of many documents is where each begins (8 bytes). The file
//! is temporary, has no name where the system allows that, and is gone with the store.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::Document;
use super::error::Error;

/// The bit of a stored token that says that the loss counts it.
pub const LOSS: u32 = 1 << 31;

/// Tokens written to the file at a time.
const WRITE_TOKENS: usize = 1 << 18;

/// Documents in the order in which they were added.
#[derive(Debug)]
pub struct TokenStore {
    /// Where each document begins, and behind the last one.
    starts: Vec<u64>,
    /// Tokens that may be in memory before a file takes them.
    most: usize,
    /// All tokens, or with a file those that it does not have yet.
    tokens: Vec<u32>,
    dir: PathBuf,
    file: Option<Mutex<File>>,
}

impl Default for TokenStore {
    /// All in memory.
    fn default() -> Self {
        Self::new(usize::MAX, Path::new(""))
    }
}

impl TokenStore {
    /// An empty store: up to `most` tokens are in memory, more of them in a file in `dir`.
    pub fn new(most: usize, dir: &Path) -> Self {
        Self { starts: vec![0], most, tokens: Vec::new(), dir: dir.into(), file: None }
    }

    /// These documents, in memory.
    pub fn of(documents: &[Document]) -> Self {
        let mut store = Self::default();
        for document in documents {
            store.append(document);
        }
        store
    }

    /// The number of documents.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of document `i`.
    pub fn length(&self, i: usize) -> usize {
        (self.starts[i + 1] - self.starts[i]) as usize
    }

    /// The tokens of all documents.
    pub fn total(&self) -> u64 {
        self.starts[self.len()]
    }

    /// Whether the tokens are in a file.
    pub fn on_disk(&self) -> bool {
        self.file.is_some()
    }

    /// Adds a document.
    ///
    /// Errors: the file cannot be made or written ([`Error::Store`]), or there are too many documents.
    pub fn push(&mut self, document: &Document) -> Result<(), Error> {
        if self.len() >= u32::MAX as usize {
            return Err(Error::TooMany);
        }
        self.append(document);
        if self.file.is_none() && self.tokens.len() > self.most {
            self.file = Some(Mutex::new(self.open()?));
            self.flush()?;
            self.tokens = Vec::with_capacity(WRITE_TOKENS);
        }
        if self.file.is_some() && self.tokens.len() >= WRITE_TOKENS {
            self.flush()?;
        }
        Ok(())
    }

    fn append(&mut self, document: &Document) {
        let pairs = document.tokens.iter().zip(&document.loss_mask);
        self.tokens.extend(pairs.map(|(&id, &loss)| if loss { id | LOSS } else { id }));
        self.starts.push(self.total() + document.tokens.len() as u64);
    }

    fn open(&self) -> Result<File, Error> {
        std::fs::create_dir_all(&self.dir)
            .and_then(|()| tempfile::tempfile_in(&self.dir))
            .map_err(|source| self.error("writing", source))
    }

    /// Writes what the file does not have yet.
    ///
    /// Errors: as [`TokenStore::push`].
    pub fn flush(&mut self) -> Result<(), Error> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
        let written = file.write_all(bytemuck::cast_slice(&self.tokens));
        written.map_err(|source| self.error("writing", source))?;
        self.tokens.clear();
        Ok(())
    }

    fn error(&self, doing: &'static str, source: std::io::Error) -> Error {
        Error::Store { doing, dir: self.dir.clone(), source }
    }

    /// Puts document `i` behind what is in `out`, each token with its [`LOSS`] bit.
    ///
    /// Errors: the file cannot be read. Panics if there is no document `i`, as indexing does.
    pub fn read(&self, i: usize, out: &mut Vec<u32>) -> Result<(), Error> {
        let (start, length) = (self.starts[i], self.length(i));
        let Some(file) = &self.file else {
            out.extend_from_slice(&self.tokens[start as usize..][..length]);
            return Ok(());
        };
        // The last ones may not have been written yet.
        let written = self.total() - self.tokens.len() as u64;
        if start >= written {
            out.extend_from_slice(&self.tokens[(start - written) as usize..][..length]);
            return Ok(());
        }
        let at = out.len();
        out.resize(at + length, 0);
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(4 * start))
            .and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut out[at..])))
            .map_err(|source| self.error("reading", source))
    }

    /// Document `i`.
    ///
    /// Errors: as [`TokenStore::read`].
    pub fn get(&self, i: usize) -> Result<Document, Error> {
        let mut stored = Vec::with_capacity(self.length(i));
        self.read(i, &mut stored)?;
        let loss_mask = stored.iter().map(|token| token & LOSS != 0).collect();
        for token in &mut stored {
            *token &= !LOSS;
        }
        Ok(Document { tokens: stored, loss_mask })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_back_what_memory_does() {
        let document = |i: usize| Document {
            tokens: (0..i % 7).map(|t| (i * 10 + t) as u32).collect(),
            loss_mask: (0..i % 7).map(|t| t % 2 == 1).collect(),
        };
        let documents: Vec<Document> = (0..500).map(document).collect();
        let dir = tempfile::tempdir().expect("temporary directory");
        for most in [0, 100, usize::MAX] {
            let mut store = TokenStore::new(most, &dir.path().join("made"));
            for (i, document) in documents.iter().enumerate() {
                store.push(document).expect("written");
                // Also what is not in the file yet.
                assert_eq!(store.get(i).expect("read"), *document);
            }
            store.flush().expect("written");
            assert_eq!(store.on_disk(), most != usize::MAX);
            assert_eq!(store.len(), 500);
            for (i, document) in documents.iter().enumerate().rev() {
                assert_eq!(store.get(i).expect("read"), *document, "{i} of {most}");
                assert_eq!(store.length(i), document.tokens.len());
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        let mut store = TokenStore::new(1, &file);
        let document = Document { tokens: vec![1, 2], loss_mask: vec![true; 2] };
        let error = store.push(&document).expect_err("a file is no directory").to_string();
        assert!(error.starts_with("writing the tokens in ") && error.contains("file"), "{error}");
    }
}
