//! Decoding a generation token by token, whole characters only.

use super::{Error, TextTokenizer};

/// A character of four bytes can be spread over this many tokens.
const LONGEST: usize = 4;

/// Decodes tokens as they come. A token's text can depend on the one before it (a leading space)
/// and a character can be spread over several tokens, so a window is decoded with and without the
/// new tokens and the difference is the new text.
pub struct StreamDecoder<'a> {
    tokenizer: &'a TextTokenizer,
    ids: Vec<u32>,
    /// `ids[..given]` have been handed out; they stay as context.
    given: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a TextTokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), given: 0 }
    }

    /// Takes one token; the text that is now complete, often none.
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.ids.push(id);
        let pending = self.ids.len() - self.given;
        let text = self.difference()?;
        if text.is_empty() || (text.ends_with(char::REPLACEMENT_CHARACTER) && pending < LONGEST) {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(text)
    }

    /// The end of the generation: what is left, a broken character as U+FFFD.
    pub fn finish(&mut self) -> Result<String, Error> {
        let text = self.difference()?;
        self.ids.clear();
        self.given = 0;
        Ok(text)
    }

    fn difference(&self) -> Result<String, Error> {
        let before = self.tokenizer.decode(&self.ids[..self.given])?;
        let all = self.tokenizer.decode(&self.ids)?;
        Ok(all.strip_prefix(&before).map(str::to_string).unwrap_or(all))
    }
}
