//! One record → tokens and loss mask.
//!
//! **Plain rows** are read as trl reads them: the text is prompt and completion joined, tokenised as
//! a whole, BOS before it if the tokenizer puts one before every text, EOS behind it. Loss on the
//! completion and that EOS. With [`PromptAs::Chat`] the prompt becomes a user turn and the
//! completion the assistant's. A `text` row is a plain row without a prompt, and never a chat.
//!
//! **Alpaca rows** are plain rows whose prompt is written as Stanford Alpaca wrote it, with a line end
//! behind `### Response:` as those have it who came after; a system text takes the place of its first
//! paragraph. With [`PromptAs::Chat`]: the system's turn if there is one, the instruction and, behind an
//! empty line, the input as the user's, the output as the assistant's.
//!
//! **Chat rows** are rendered by the model's template and tokenised as a whole with nothing added
//! (a template brings its own BOS). A template with `{% generation %}` blocks says itself which text
//! is the assistant's, and the mask is that of transformers' `return_assistant_tokens_mask`, token for
//! token. Without them the turns are found by rendering parts of the conversation (`assistant.rs`). Loss
//! on each assistant turn up to and with its end-of-turn token; what the template writes behind it (a
//! line end) is never asked of the model, so it is left out.
//!
//! **Ready-made rows** are taken as they are, nothing is added.
//!
//! A token that lies on both sides of a border counts on the later side, as in transformers.

use std::borrow::Cow;
use std::ops::Range;

use super::Document;
use super::assistant::Conversation;
use super::error::RowProblem;
use super::generation::Rendered;
use super::records::Record;
use super::template::{ChatTemplate, TemplateError};
use crate::model::tokenizer::{self, TextTokenizer};

/// What a plain `prompt`/`completion` row becomes on a model with a chat template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PromptAs {
    /// Plain text, as trl and others have it.
    #[default]
    Text,
    /// A user's turn and an assistant's.
    Chat,
}

/// Why a record gave no document.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error(transparent)]
    Row(#[from] RowProblem),
    #[error(transparent)]
    Tokenizer(#[from] tokenizer::Error),
    /// A chat row, and no template.
    #[error("there is no chat template")]
    NoTemplate,
    /// A plain row, and no end-of-sequence token.
    #[error("there is no end-of-sequence token")]
    NoEos,
}

impl From<TemplateError> for EncodeError {
    fn from(error: TemplateError) -> Self {
        let text = error.to_string();
        EncodeError::Row(match error {
            TemplateError::Raised(_) => RowProblem::Raised(text),
            TemplateError::Endless => RowProblem::Endless(text),
            _ => RowProblem::Template(text),
        })
    }
}

/// A record's tokens, and what was noticed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRecord {
    pub document: Document,
    /// Assistant turns that do not end with one of the model's stop tokens.
    pub turns_without_stop: usize,
    /// A token lies on both sides of the border between prompt and completion.
    pub straddled: bool,
    /// The template shows earlier turns differently once later messages follow.
    pub rewritten: bool,
}

/// Turns records into documents.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    pub tokenizer: &'a TextTokenizer,
    pub template: Option<&'a ChatTemplate>,
    pub prompt_as: PromptAs,
}

/// A record as a conversation: messages, tools, and the message from which on there is loss.
type Chat<'r> = (Cow<'r, [serde_json::Value]>, Option<&'r serde_json::Value>, usize);

impl Encoder<'_> {
    /// Tokens and loss mask of `record`.
    ///
    /// Errors: [`EncodeError`]; no loss token at all is not an error here, since truncation decides.
    pub fn encode(&self, record: &Record) -> Result<EncodedRecord, EncodeError> {
        if let Some((messages, tools, loss_from)) = self.as_chat(record) {
            return self.chat(&messages, tools, loss_from);
        }
        match record {
            Record::Text(text) => self.plain("", text),
            Record::Tokens { input_ids, labels } => {
                let loss_mask = labels.iter().map(Option::is_some).collect();
                let document = Document { tokens: input_ids.clone(), loss_mask };
                Ok(EncodedRecord { document, ..EncodedRecord::default() })
            }
            record => {
                let (prompt, completion) = as_plain(record);
                self.plain(&prompt, completion)
            }
        }
    }

    /// The tokens to generate from, and the text that is expected: the completion, the last assistant
    /// turn's content, or the ready-made tokens from the first one with loss on. Of a `text` row no
    /// tokens: it asks for nothing.
    ///
    /// Errors: as [`Encoder::encode`], and a chat without an assistant turn.
    pub fn prompt(&self, record: &Record) -> Result<(Vec<u32>, String), EncodeError> {
        let Some((messages, tools, _)) = self.as_chat(record) else {
            return match record {
                Record::Text(_) => Ok(Default::default()),
                Record::Tokens { input_ids, labels } => {
                    let learned = labels.iter().skip(1).position(Option::is_some);
                    let (prompt, answer) = input_ids.split_at(learned.map_or(0, |at| at + 1));
                    Ok((prompt.to_vec(), self.tokenizer.decode(answer)?))
                }
                record => {
                    let (prompt, completion) = as_plain(record);
                    let body = self.tokenizer.encode(&prompt)?;
                    let mut ids = self.tokenizer.prefix_for(&body).to_vec();
                    ids.extend(body);
                    Ok((ids, completion.to_string()))
                }
            };
        };
        let last = messages.iter().rposition(|m| m["role"] == "assistant");
        let last = last.ok_or(RowProblem::NoLoss("it has no assistant turn"))?;
        let template = self.template.ok_or(EncodeError::NoTemplate)?;
        let text = template.render(&messages[..last], tools, true)?;
        let answer = messages[last]["content"].as_str().unwrap_or_default();
        Ok((self.tokenizer.encode(&text)?, answer.to_string()))
    }

    /// A record as a conversation: where it is one, or that is asked for.
    fn as_chat<'r>(&self, record: &'r Record) -> Option<Chat<'r>> {
        let turn =
            |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
        let asked = self.prompt_as == PromptAs::Chat;
        match record {
            Record::Chat { messages, tools, loss_from } => {
                Some((Cow::Borrowed(messages), tools.as_ref(), *loss_from))
            }
            Record::Plain { prompt, completion } if asked => {
                let turns = vec![turn("user", prompt), turn("assistant", completion)];
                Some((Cow::Owned(turns), None, 0))
            }
            Record::Alpaca { system, instruction, input, output } if asked => {
                let user = match input.is_empty() {
                    true => instruction.clone(),
                    false => format!("{instruction}\n\n{input}"),
                };
                let system = system.iter().map(|system| turn("system", system));
                let turns = system.chain([turn("user", &user), turn("assistant", output)]);
                Some((Cow::Owned(turns.collect()), None, 0))
            }
            _ => None,
        }
    }

    fn plain(&self, prompt: &str, completion: &str) -> Result<EncodedRecord, EncodeError> {
        let eos = self.tokenizer.eos_id().ok_or(EncodeError::NoEos)?;
        let text = format!("{prompt}{completion}");
        let encoded = self.tokenizer.encode_with_spans(&text)?;
        let mut tokens = self.tokenizer.prefix_for(&encoded.ids).to_vec();
        let mut loss_mask = vec![false; tokens.len()];
        let border = prompt.len();
        tokens.extend(&encoded.ids);
        loss_mask.extend(encoded.spans.iter().map(|span| span.end > border));
        if encoded.ids.last() != Some(&eos) {
            tokens.push(eos);
            loss_mask.push(true);
        }
        let straddled = encoded.spans.iter().any(|s| s.start < border && s.end > border);
        let document = Document { tokens, loss_mask };
        Ok(EncodedRecord { document, straddled, ..EncodedRecord::default() })
    }

    fn chat(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        loss_from: usize,
    ) -> Result<EncodedRecord, EncodeError> {
        let template = self.template.ok_or(EncodeError::NoTemplate)?;
        let rendered = template.render_marked(messages, tools, false)?;
        let encoded = self.tokenizer.encode_with_spans(&rendered.text)?;
        let conversation = Conversation { template, messages, tools, text: &rendered.text };
        if template.marks_assistant() {
            self.marked(&conversation, &rendered, encoded, loss_from)
        } else {
            self.unmarked(&conversation, encoded, loss_from)
        }
    }

    /// The loss on what the template's generation blocks wrote; of a row with a prompt, on what
    /// follows it.
    fn marked(
        &self,
        conversation: &Conversation,
        rendered: &Rendered,
        encoded: tokenizer::Encoded,
        loss_from: usize,
    ) -> Result<EncodedRecord, EncodeError> {
        let mut loss_mask = vec![false; encoded.ids.len()];
        let mut with_stop = 0;
        for block in &rendered.generated {
            // transformers looks for the first token of the block's first and of its last character.
            let Some(first) = token_at(&encoded, block.start) else { break };
            let last = rendered.text[..block.end].char_indices().next_back();
            let Some((last, _)) = last else { continue };
            let end = token_at(&encoded, last).filter(|&token| token > 0);
            let end = end.map_or(encoded.ids.len(), |token| token + 1);
            if first < end {
                loss_mask[first..end].fill(true);
                let text = &rendered.text[block.clone()];
                with_stop += usize::from(self.end_of_turn(&encoded, first..end, text).1);
            }
        }
        if loss_from > 0 {
            let prompt = conversation.prompt_length(loss_from)?;
            let prompt = encoded.spans.partition_point(|span| span.end <= prompt);
            loss_mask[..prompt].fill(false);
        }
        let turns = conversation.messages.iter().filter(|m| m["role"] == "assistant").count();
        let turns_without_stop = turns.saturating_sub(with_stop);
        let document = Document { tokens: encoded.ids, loss_mask };
        Ok(EncodedRecord { document, turns_without_stop, ..EncodedRecord::default() })
    }

    /// The loss on the assistant's turns, as they are found.
    fn unmarked(
        &self,
        conversation: &Conversation,
        encoded: tokenizer::Encoded,
        loss_from: usize,
    ) -> Result<EncodedRecord, EncodeError> {
        let mut out = EncodedRecord::default();
        let mut loss_mask = vec![false; encoded.ids.len()];
        for turn in conversation.turns(loss_from)? {
            let start = encoded.spans.partition_point(|span| span.end <= turn.bytes.start);
            let end = encoded.spans.partition_point(|span| span.start < turn.bytes.end);
            let range = start..end.max(start);
            let end = if turn.runs_on {
                let stop = |&token: &usize| self.tokenizer.stop_ids().contains(&encoded.ids[token]);
                let last = range.rev().find(stop).ok_or_else(|| {
                    RowProblem::Template(
                        "under the chat template, earlier turns read differently once later messages \
                         are added, and they end without a stop token, so their tokens cannot be told"
                            .into(),
                    )
                })?;
                last + 1
            } else {
                let text = &conversation.text[turn.bytes];
                let (end, stops) = self.end_of_turn(&encoded, range, text);
                out.turns_without_stop += usize::from(!stops);
                end
            };
            loss_mask[start..end].fill(true);
            out.rewritten |= turn.rewritten;
        }
        out.document = Document { tokens: encoded.ids, loss_mask };
        Ok(out)
    }

    /// Where the loss of a turn ends, and whether a stop token stands there. A special token with
    /// nothing but whitespace behind it is the end of the turn; otherwise the turn is taken whole.
    fn end_of_turn(
        &self,
        encoded: &tokenizer::Encoded,
        range: Range<usize>,
        text: &str,
    ) -> (usize, bool) {
        let trailing = text.len() - text.trim_end().len();
        let text_end = encoded.spans[range.clone()].last().map_or(0, |span| span.end);
        for i in range.clone().rev() {
            let id = encoded.ids[i];
            let stops = self.tokenizer.stop_ids().contains(&id);
            if stops || self.tokenizer.is_special(id) {
                return (i + 1, stops);
            }
            if text_end - encoded.spans[i].start > trailing {
                break;
            }
        }
        (range.end, false)
    }
}

/// A record of text as prompt and completion.
fn as_plain(record: &Record) -> (Cow<'_, str>, &str) {
    match record {
        Record::Plain { prompt, completion } => (Cow::Borrowed(prompt), completion),
        Record::Alpaca { system, instruction, input, output } => {
            let about = match (system, input.is_empty()) {
                (Some(system), _) => system,
                (None, true) => {
                    "Below is an instruction that describes a task. Write a response that \
                     appropriately completes the request."
                }
                (None, false) => {
                    "Below is an instruction that describes a task, paired with an input that \
                     provides further context. Write a response that appropriately completes the \
                     request."
                }
            };
            let input = match input.is_empty() {
                true => String::new(),
                false => format!("### Input:\n{input}\n\n"),
            };
            let prompt =
                format!("{about}\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n");
            (Cow::Owned(prompt), output)
        }
        Record::Text(text) => (Cow::Borrowed(""), text),
        Record::Chat { .. } | Record::Tokens { .. } => (Cow::Borrowed(""), ""),
    }
}

/// The first token that covers the byte `at`.
fn token_at(encoded: &tokenizer::Encoded, at: usize) -> Option<usize> {
    let token = encoded.spans.partition_point(|span| span.end <= at);
    encoded.spans.get(token).filter(|span| span.start <= at).map(|_| token)
}
