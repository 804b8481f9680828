//! Where the assistant's turns lie in a conversation's text, for templates that do not mark them.
//!
//! **By prefix.** Turn `i` is what the text of messages `0..=i` adds to the text of `0..i` with the
//! generation prompt: exact, wherever adding a message leaves the text before it as it was.
//!
//! **By the messages around it**, where it does not: Qwen3 shows reasoning in the last turn alone, Mistral
//! its system prompt with the last user's. The content of message `i - 1` is marked in the whole
//! conversation and in `0..i` with the generation prompt. What follows it there, up to the end, is how the
//! turn is opened, and must stand at the same place of the whole (without the empty reasoning that some
//! generation prompts end with: it is shown in the last turn alone). The turn runs on to the content of
//! message `i + 1`; the last stop token before that is its end.

use std::ops::Range;

use serde_json::Value;

use super::encode::EncodeError;
use super::error::RowProblem;
use super::generation::{self, Rendered};
use super::python;
use super::template::ChatTemplate;

/// One assistant turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Its bytes in the conversation's text.
    pub bytes: Range<usize>,
    /// It was found by the messages around it: later messages change how earlier ones read.
    pub rewritten: bool,
    /// The bytes run on into how the next message is opened.
    pub runs_on: bool,
}

/// A conversation and its text.
pub(super) struct Conversation<'a> {
    pub template: &'a ChatTemplate,
    pub messages: &'a [Value],
    pub tools: Option<&'a Value>,
    pub text: &'a str,
}

impl Conversation<'_> {
    /// The assistant's turns from message `from` on.
    ///
    /// Errors: a turn that neither way finds, with what is wrong with the first.
    pub(super) fn turns(&self, from: usize) -> Result<Vec<Turn>, EncodeError> {
        let all = self.messages.iter().enumerate().skip(from);
        let turns = all.filter(|(_, message)| message["role"] == "assistant").map(|(i, _)| {
            let problem = match self.by_prefix(i) {
                Ok(bytes) => return Ok(Turn { bytes, rewritten: false, runs_on: false }),
                Err(problem) => problem,
            };
            let bytes = self.by_neighbours(i).ok_or_else(|| match i {
                0 => nothing_before(),
                _ => problem,
            })?;
            let runs_on = i + 1 < self.messages.len();
            Ok(Turn { bytes, rewritten: true, runs_on })
        });
        turns.collect()
    }

    /// How far the text of the messages before `from` reaches, the generation prompt included.
    pub(super) fn prompt_length(&self, from: usize) -> Result<usize, EncodeError> {
        let before = self.render(&self.messages[..from], true)?;
        if !self.text.starts_with(&before) {
            let what = format!(
                "under the chat template, the prompt reads differently once the completion follows \
                 (from {:?}), so the completion's tokens cannot be told",
                difference(&before, self.text)
            );
            return Err(RowProblem::Template(what).into());
        }
        Ok(before.len())
    }

    fn render(&self, messages: &[Value], prompt: bool) -> Result<String, EncodeError> {
        Ok(self.template.render(messages, self.tools, prompt)?)
    }

    fn by_prefix(&self, i: usize) -> Result<Range<usize>, EncodeError> {
        let before = self.render(&self.messages[..i], true)?;
        let rendered;
        let after = if i + 1 == self.messages.len() {
            self.text
        } else {
            rendered = self.render(&self.messages[..=i], false)?;
            &rendered
        };
        if !self.text.starts_with(after) {
            let what = format!(
                "under the chat template, messages[0..={i}] read differently once later messages are \
                 added (from {:?}), so what the model is taught is not what it will see",
                difference(after, self.text)
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

    fn by_neighbours(&self, i: usize) -> Option<Range<usize>> {
        let before = self.content(i.checked_sub(1)?)?;
        let opened = self.with_content_marked(&self.messages[..i], i - 1, true)?;
        let opening = &opened.text[opened.generated[0].end..];
        let without_reasoning = opening.rfind("<think>").map(|at| &opening[..at]);
        let ends_so = opening.trim_end().ends_with("</think>");
        let openings = [Some(opening), without_reasoning.filter(|_| ends_so)];
        let follows = &self.text[before.end..];
        let opening =
            openings.into_iter().flatten().find(|opening| follows.starts_with(opening))?;
        let start = before.end + opening.len();
        let end = match i + 1 == self.messages.len() {
            true => self.text.len(),
            false => self.content(i + 1)?.start,
        };
        (start <= end).then_some(start..end)
    }

    /// The bytes of message `k`'s content in the text.
    fn content(&self, k: usize) -> Option<Range<usize>> {
        let marked = self.with_content_marked(self.messages, k, false)?;
        (marked.text == self.text).then(|| marked.generated[0].clone())
    }

    /// `messages` rendered with marks around the content of message `k`, inside the white space at its
    /// ends, which templates like to trim.
    fn with_content_marked(&self, messages: &[Value], k: usize, prompt: bool) -> Option<Rendered> {
        let content = messages[k]["content"].as_str()?;
        let inner = content.trim_start_matches(python::is_space);
        let leading = &content[..content.len() - inner.len()];
        let inner = inner.trim_end_matches(python::is_space);
        let trailing = &content[leading.len() + inner.len()..];
        let mut messages = messages.to_vec();
        messages[k]["content"] = format!("{leading}{}{trailing}", generation::mark(inner)).into();
        let rendered = generation::split(&self.render(&messages, prompt).ok()?)?;
        (rendered.generated.len() == 1).then_some(rendered)
    }
}

fn nothing_before() -> EncodeError {
    let what = "messages[0] is the assistant's, and the chat template does not mark its text with \
                {% generation %}: what the template writes before it cannot be told from it";
    RowProblem::Template(what.into()).into()
}

/// The first characters of `a` that `b` does not share.
fn difference(a: &str, b: &str) -> String {
    let differs = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    a.chars().skip(differs).take(30).collect()
}
