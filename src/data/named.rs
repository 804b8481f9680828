//! Chat templates by name, for base models that bring none.
//!
//! Their `{% generation %}` blocks hold the answer and the token that ends it, so the loss falls there.
//! `chatml` and `llama-3` write special tokens, which the tokenizer must have: without them a model would
//! be taught to spell their names. `mistral` and `alpaca` need no token but EOS.

use std::path::Path;

use super::error::Error;
use crate::model::tokenizer::TextTokenizer;

/// A chat template of ours.
#[derive(Debug)]
pub struct Named {
    pub name: &'static str,
    pub source: &'static str,
    /// The tokens that it writes.
    tokens: &'static [&'static str],
}

/// All of them.
pub const NAMED: [Named; 4] = [
    Named {
        name: "chatml",
        source: include_str!("named/chatml.jinja"),
        tokens: &["<|im_start|>", "<|im_end|>"],
    },
    Named {
        name: "llama-3",
        source: include_str!("named/llama-3.jinja"),
        tokens: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    },
    Named { name: "mistral", source: include_str!("named/mistral.jinja"), tokens: &[] },
    Named { name: "alpaca", source: include_str!("named/alpaca.jinja"), tokens: &[] },
];

/// The template that the run file gives: one of ours by its name, or the file at that path. A name wins
/// over a file of the same name.
///
/// Errors: [`Error::Io`].
pub fn source(given: &Path) -> Result<String, Error> {
    match NAMED.iter().find(|named| Path::new(named.name) == given) {
        Some(named) => Ok(named.source.into()),
        None => std::fs::read_to_string(given)
            .map_err(|source| Error::Io { path: given.into(), source }),
    }
}

/// Refuses one of ours, a copy included, where `tokenizer` lacks a token that it writes.
///
/// Errors: [`Error::NamedTemplate`].
pub(super) fn check(source: &str, tokenizer: &TextTokenizer) -> Result<(), Error> {
    let Some(named) = NAMED.iter().find(|named| named.source == source) else { return Ok(()) };
    match named.tokens.iter().find(|token| tokenizer.token_id(token).is_none()) {
        None => Ok(()),
        Some(token) => {
            Err(Error::NamedTemplate { path: tokenizer.path().into(), name: named.name, token })
        }
    }
}
