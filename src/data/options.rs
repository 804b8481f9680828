//! How rows become documents.

use std::path::PathBuf;

use super::encode::PromptAs;
use super::error::Error;
use super::mix::HeldOut;
use super::named;
use super::template::ChatTemplate;
use crate::model::tokenizer::TextTokenizer;

/// What happens to a bad row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// The run stops and names it.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// What happens to a document longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TooLong {
    /// Its first `max_length` tokens are kept.
    #[default]
    Truncate,
    /// It becomes several documents, none of which sees the one before.
    Split,
}

/// Tokens that are kept in memory: 16 MiB of them.
const MEMORY_TOKENS: usize = 1 << 22;

/// How rows become documents.
#[derive(Clone, Debug)]
pub struct DataOptions {
    /// Tokens in a document, at most; at most a micro-batch's capacity.
    pub max_length: usize,
    pub too_long: TooLong,
    pub on_bad_row: OnBadRow,
    pub prompt_as: PromptAs,
    /// A chat template's source that takes the place of the model's own.
    pub chat_template: Option<String>,
    /// More variables that the template sees.
    pub template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// What `strftime_now` says in a template; `None`: today.
    pub date: Option<jiff::civil::Date>,
    /// The model's vocabulary, which ready-made tokens must be in; `None`: the tokenizer's.
    pub vocab_size: Option<usize>,
    /// Rows that are kept for evaluation.
    pub held_out: Option<HeldOut>,
    /// More tokens than these are kept in a temporary file in `cache_dir`.
    pub memory_tokens: usize,
    pub cache_dir: PathBuf,
}

impl DataOptions {
    /// The defaults, for documents of up to `max_length` tokens.
    pub fn new(max_length: usize) -> Self {
        Self {
            max_length,
            too_long: TooLong::default(),
            on_bad_row: OnBadRow::default(),
            prompt_as: PromptAs::default(),
            chat_template: None,
            template_kwargs: serde_json::Map::new(),
            date: None,
            vocab_size: None,
            held_out: None,
            memory_tokens: MEMORY_TOKENS,
            cache_dir: std::env::temp_dir(),
        }
    }

    /// The chat template in force: the option's, else the model's, else none.
    ///
    /// Errors: [`Error::Template`] if it cannot be read, [`Error::NamedTemplate`].
    pub fn template(&self, tokenizer: &TextTokenizer) -> Result<Option<ChatTemplate>, Error> {
        let source = self.chat_template.as_deref().or(tokenizer.chat_template());
        let Some(source) = source else { return Ok(None) };
        named::check(source, tokenizer)?;
        let template =
            ChatTemplate::new(source, tokenizer.special_tokens(), self.date).map_err(|e| {
                Error::Template { path: tokenizer.path().into(), problem: e.to_string() }
            })?;
        Ok(Some(template.with_variables(&self.template_kwargs)))
    }
}
