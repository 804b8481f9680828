//! Text to token ids and back: a model's own tokenizer, from a Hub directory or a GGUF file.
//!
//! The tokenizers library does the work. What is ours: which ids begin and end a text, which end a
//! turn, the chat template's source, and that a damaged tokenizer is an error (crafted files make
//! the library panic, so every call into it is guarded).

mod directory;
mod error;
#[cfg(feature = "gguf")]
mod gguf;
mod stream;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use tokenizers::{PostProcessorWrapper, Tokenizer};

pub use error::Error;
pub use stream::StreamDecoder;

/// Tokens that end an assistant's turn in the templates of known model families.
const END_OF_TURN: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "</s>"];

/// Tokens that end a document in known model families.
const END_OF_TEXT: [&str; 2] = ["<|endoftext|>", "<|end_of_text|>"];

/// The special tokens as text, as a chat template sees them: `bos_token`, `eos_token`, ...
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<String>,
    pub eos: Option<String>,
    pub unk: Option<String>,
    pub pad: Option<String>,
}

/// Token ids of a text, and the bytes of the text that each came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    pub ids: Vec<u32>,
    /// Byte ranges in the text. Tokens that hold parts of one character have its whole range.
    pub spans: Vec<Range<usize>>,
}

/// What a source says about a tokenizer, before it is checked.
struct Parts {
    path: PathBuf,
    inner: Tokenizer,
    special: SpecialTokens,
    /// Ids the model's files name as ending a generation.
    stop: Vec<u32>,
    /// Whether plain text begins with BOS; `None`: as the tokenizer's post-processor says.
    add_bos: Option<bool>,
    /// Whether plain text ends with EOS; `None`: as the post-processor says.
    add_eos: Option<bool>,
    chat_template: Option<String>,
}

/// A model's tokenizer.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    path: PathBuf,
    inner: Tokenizer,
    special: SpecialTokens,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    stop: Vec<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    chat_template: Option<String>,
}

impl TextTokenizer {
    /// From a Hub directory (`tokenizer.json` and what lies beside it) or a single GGUF file.
    ///
    /// Errors: a missing or malformed file, an unsupported pre-tokenizer (by name), a tokenizer that
    /// panics or does not give a simple text back.
    pub fn load(path: &Path) -> Result<Self, Error> {
        crate::model::load::check_source(path).map_err(Box::new)?;
        if path.is_dir() {
            return Self::from_parts(directory::read(path)?);
        }
        #[cfg(feature = "gguf")]
        return Self::from_gguf(
            &crate::model::gguf::Gguf::open(path).map_err(|e| Error::Model(Box::new(e)))?,
        );
        #[cfg(not(feature = "gguf"))]
        Err(Error::Unsupported {
            path: path.into(),
            what: "a file (no GGUF reader built in)".into(),
        })
    }

    /// From an open GGUF file.
    ///
    /// Errors: as [`TextTokenizer::load`].
    #[cfg(feature = "gguf")]
    pub fn from_gguf(file: &crate::model::gguf::Gguf) -> Result<Self, Error> {
        Self::from_parts(gguf::read(file)?)
    }

    fn from_parts(parts: Parts) -> Result<Self, Error> {
        let Parts { path, mut inner, special, mut stop, add_bos, add_eos, chat_template } = parts;
        // A stored truncation or padding would silently cut or lengthen every document.
        if let Err(problem) = inner.with_truncation(None) {
            return Err(Error::Build { path, problem: problem.to_string() });
        }
        inner.with_padding(None);
        let id = |token: &Option<String>| token.as_ref().and_then(|t| inner.token_to_id(t));
        let (bos, eos, pad) = (id(&special.bos), id(&special.eos), id(&special.pad));
        let (mut prefix, mut suffix) =
            guard(&path, "encoding", || around(&inner)).map_err(|problem| match problem {
                Problem::Panic(error) => error,
                Problem::Library(problem) => Error::Build { path: path.clone(), problem },
            })?;
        match (add_bos, bos) {
            (Some(false), _) => prefix.clear(),
            (Some(true), Some(bos)) if prefix.first() != Some(&bos) => prefix = vec![bos],
            _ => {}
        }
        match (add_eos, eos) {
            (Some(false), _) => suffix.clear(),
            (Some(true), Some(eos)) if suffix.last() != Some(&eos) => suffix = vec![eos],
            _ => {}
        }
        // Without it, offsets are never trimmed and nothing is added behind our back.
        inner.with_post_processor(None::<PostProcessorWrapper>);

        let is_special = |token: &str| {
            let id = inner.token_to_id(token)?;
            inner.get_added_vocabulary().is_special_token(token).then_some(id)
        };
        stop.extend(eos);
        // Of a model without a template, that of the run file may write any of them.
        let template = chat_template.as_deref();
        let turns = END_OF_TURN.iter().filter(|token| template.is_none_or(|t| t.contains(*token)));
        stop.extend(turns.chain(&END_OF_TEXT).filter_map(|token| is_special(token)));
        stop.sort_unstable();
        stop.dedup();

        let tokenizer =
            Self { path, inner, special, bos, eos, pad, stop, prefix, suffix, chat_template };
        tokenizer.canary()?;
        Ok(tokenizer)
    }

    /// Token ids of `text` and nothing added: for templated text, which brings its own BOS. The
    /// text of a special token in `text` becomes that token, as in transformers.
    ///
    /// Errors: [`Error::Use`], [`Error::Panicked`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let encoding = self.call("encoding", || self.inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`TextTokenizer::encode`], with the place of every token in `text`.
    pub fn encode_with_spans(&self, text: &str) -> Result<Encoded, Error> {
        let encoding = self.call("encoding", || self.inner.encode(text, false))?;
        let spans = encoding.get_offsets().iter().map(|&(start, end)| start..end);
        Ok(Encoded { ids: encoding.get_ids().to_vec(), spans: spans.collect() })
    }

    /// Token ids of a plain text: [`TextTokenizer::encode`] between [`TextTokenizer::prefix`] and
    /// [`TextTokenizer::suffix`]. A text that already begins with BOS gets no second one.
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, Error> {
        let body = self.encode(text)?;
        let mut ids = self.prefix_for(&body).to_vec();
        ids.extend(body);
        ids.extend(&self.suffix);
        Ok(ids)
    }

    /// What goes before `body` when it is plain text: the prefix, unless `body` begins with it.
    pub fn prefix_for(&self, body: &[u32]) -> &[u32] {
        if body.starts_with(&self.prefix) { &[] } else { &self.prefix }
    }

    /// The text of `ids`, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.call("decoding", || self.inner.decode(ids, true))
    }

    /// The text of `ids`, special tokens included.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String, Error> {
        self.call("decoding", || self.inner.decode(ids, false))
    }

    /// Decodes a generation token by token.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// The id of a token by its text.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of a token by its id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether `id` is a special token (BOS, end of turn, ...).
    pub fn is_special(&self, id: u32) -> bool {
        self.inner
            .get_added_vocabulary()
            .get_added_tokens_decoder()
            .get(&id)
            .is_some_and(|token| token.special)
    }

    /// Begin of sequence.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// End of sequence: what ends a plain document.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    /// Padding, where the model names one. Packed batches have none.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// Ids that end a generation, ascending: EOS, those the model's generation config names, and
    /// the end-of-turn tokens that its chat template writes (all that it has, if there is none).
    pub fn stop_ids(&self) -> &[u32] {
        &self.stop
    }

    /// What the tokenizer puts before a plain text: BOS or nothing.
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// What the tokenizer puts behind a plain text: mostly nothing.
    pub fn suffix(&self) -> &[u32] {
        &self.suffix
    }

    /// The special tokens' texts.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// The chat template's source.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The file or directory it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Checks that every token, and every id that ends a generation, has a row in the embedding of
    /// `vocab_size` rows that the model at `model` has.
    ///
    /// Errors: [`Error::Vocab`] naming the highest token, [`Error::StopId`].
    pub fn check_vocab(&self, model: &Path, vocab_size: usize) -> Result<(), Error> {
        let (path, model) = (self.path.clone(), model.into());
        let known = self.vocab_size();
        let highest = self.inner.get_vocab(true).into_iter().max_by_key(|&(_, id)| id);
        if let Some((token, id)) = highest.filter(|&(_, id)| id as usize >= vocab_size) {
            let (token, known) = (token.into(), known as u32);
            return Err(Error::Vocab { path, token, id, known, model, vocab_size });
        }
        if let Some(&id) = self.stop.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::StopId { path, id, model, vocab_size });
        }
        if known < vocab_size / 10 * 9 {
            tracing::warn!(known, vocab_size, "the tokenizer knows few of the model's ids");
        }
        Ok(())
    }

    /// Encodes and decodes a few texts: a tokenizer that panics or loses plain text is refused here
    /// and not in the middle of a data set.
    fn canary(&self) -> Result<(), Error> {
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        for text in
            ["Hello, world! 123", "def f(x):\n    return x + 1\n", "naïve 你好 🙂\t\u{0}", ""]
        {
            let ids = self.encode_with_spans(text)?.ids;
            let got = self.decode(&ids)?;
            if text.is_ascii() && bare(&got) != bare(text) {
                return Err(Error::RoundTrip { path: self.path.clone(), text: text.into(), got });
            }
        }
        Ok(())
    }

    fn call<T>(
        &self,
        doing: &'static str,
        f: impl FnOnce() -> tokenizers::Result<T>,
    ) -> Result<T, Error> {
        guard(&self.path, doing, f).map_err(|problem| match problem {
            Problem::Panic(error) => error,
            Problem::Library(problem) => Error::Use { path: self.path.clone(), doing, problem },
        })
    }
}

enum Problem {
    Panic(Error),
    Library(String),
}

/// Runs a call into the tokenizers library; a panic there becomes an error.
fn guard<T>(
    path: &Path,
    doing: &'static str,
    f: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, Problem> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|e| Problem::Library(e.to_string())),
        Err(_) => Err(Problem::Panic(Error::Panicked { path: path.into(), doing })),
    }
}

/// What the post-processor puts around a text, seen on a text of one letter.
fn around(inner: &Tokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let bare = inner.encode_fast("a", false)?;
    let full = inner.encode_fast("a", true)?;
    let (bare, full) = (bare.get_ids(), full.get_ids());
    let start = full.windows(bare.len().max(1)).position(|w| w == bare);
    match start {
        Some(at) => Ok((full[..at].to_vec(), full[at + bare.len()..].to_vec())),
        None => Err("its post-processor changes the text's own tokens".into()),
    }
}
