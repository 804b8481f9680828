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
//! (a template brings its own BOS). Where the assistant's turns lie comes from rendering prefixes:
//! turn `i` is what the text of messages `0..=i` adds to the text of `0..i` with the generation
//! prompt. That holds only if adding a message never changes the text before it, which is checked
//! for each row. Loss on each assistant turn up to and with its end-of-turn token; what the template
//! writes behind it (a line end) is never asked of the model, so it is left out.
//!
//! **Ready-made rows** are taken as they are, nothing is added.
//!
//! A token that lies on both sides of a border counts on the later side, as in transformers.

use std::borrow::Cow;
use std::ops::Range;

use super::Document;
use super::error::RowProblem;
use super::records::Record;
use super::template::ChatTemplate;
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

/// A record's tokens, and what was noticed on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRecord {
    pub document: Document,
    /// Assistant turns that do not end with one of the model's stop tokens.
    pub turns_without_stop: usize,
    /// A token lies on both sides of the border between prompt and completion.
    pub straddled: bool,
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
        let text = template.render(&messages[..last], tools, true).map_err(template_problem)?;
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
        Ok(EncodedRecord { document, turns_without_stop: 0, straddled })
    }

    fn chat(
        &self,
        messages: &[serde_json::Value],
        tools: Option<&serde_json::Value>,
        loss_from: usize,
    ) -> Result<EncodedRecord, EncodeError> {
        let template = self.template.ok_or(EncodeError::NoTemplate)?;
        let text = template.render(messages, tools, false).map_err(template_problem)?;
        let mut turns: Vec<Range<usize>> = Vec::new();
        for (i, message) in messages.iter().enumerate().skip(loss_from) {
            if message["role"] != "assistant" {
                continue;
            }
            turns.push(turn(template, messages, tools, i, &text)?);
        }
        let encoded = self.tokenizer.encode_with_spans(&text)?;
        let mut loss_mask = vec![false; encoded.ids.len()];
        let mut turns_without_stop = 0;
        for turn in turns {
            let start = encoded.spans.partition_point(|span| span.end <= turn.start);
            let end = encoded.spans.partition_point(|span| span.start < turn.end);
            let (end, stops) = self.end_of_turn(&encoded, start..end.max(start), &text[turn]);
            turns_without_stop += usize::from(!stops);
            loss_mask[start..end].fill(true);
        }
        let document = Document { tokens: encoded.ids, loss_mask };
        Ok(EncodedRecord { document, turns_without_stop, straddled: false })
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

/// Turn `i`'s bytes in `text`, the whole conversation's.
fn turn(
    template: &ChatTemplate,
    messages: &[serde_json::Value],
    tools: Option<&serde_json::Value>,
    i: usize,
    text: &str,
) -> Result<Range<usize>, EncodeError> {
    let render = |n: usize, prompt: bool| {
        template.render(&messages[..n], tools, prompt).map_err(template_problem)
    };
    let before = render(i, true)?;
    let rendered;
    let after = if i + 1 == messages.len() {
        text
    } else {
        rendered = render(i + 1, false)?;
        &rendered
    };
    if !text.starts_with(after) {
        let what = format!(
            "under the chat template, messages[0..={i}] read differently once later messages are \
             added (from {:?}), so what the model is taught is not what it will see",
            difference(after, text)
        );
        return Err(RowProblem::Template(what).into());
    }
    if !after.starts_with(&before) {
        let what = format!(
            "the chat template's generation prompt is not how it begins the assistant's turn \
             messages[{i}] (from {:?}), so the turn's tokens cannot be told",
            difference(&before, after)
        );
        return Err(RowProblem::Template(what).into());
    }
    Ok(before.len()..after.len())
}

fn template_problem(error: super::template::TemplateError) -> EncodeError {
    RowProblem::Template(error.to_string()).into()
}

/// The first characters of `a` that `b` does not share.
fn difference(a: &str, b: &str) -> String {
    let differs = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    a.chars().skip(differs).take(30).collect()
}
