//! One row of data → what is to be learned from it.
//!
//! | kind | keys | loss on |
//! |---|---|---|
//! | `messages` | `messages` of `role` and `content`; `tools` | the assistant's turns |
//! | `conversations` | ShareGPT's turns of `from` and `value`; `system`, `tools` | the assistant's turns |
//! | `prompt` | `prompt` and `completion`, texts or lists of messages; `tools` | the completion |
//! | `instruction` | Alpaca's `instruction`, `input`, `output`; `system` | the output |
//! | `input_ids` | ready-made `input_ids`, `labels`, `attention_mask` | where the label is not -100 |
//! | `text` | `text` | all of it |
//!
//! A row that has the keys of several is of the kind named first here. The first row decides the
//! file's kind; a row of another kind is a bad row. Keys that are not known are left alone: real
//! data sets carry many.

use serde_json::{Map, Value};

use super::columns::Columns;
use super::error::RowProblem;
use super::turns;

/// One row's content.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A document: loss on all of it.
    Text(String),
    /// Plain text: loss on the completion.
    Plain { prompt: String, completion: String },
    /// Alpaca's instruction and the input that it is about, which may be empty.
    Alpaca { system: Option<String>, instruction: String, input: String, output: String },
    /// A conversation: loss on the assistant's turns from message `loss_from` on.
    Chat { messages: Vec<Value>, tools: Option<Value>, loss_from: usize },
    /// Tokens, and as labels the same ones where there is loss.
    Tokens { input_ids: Vec<u32>, labels: Vec<Option<u32>> },
}

/// What a file's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Messages,
    Conversations,
    Prompt,
    Alpaca,
    Tokens,
    Text,
}

impl Kind {
    /// In the order in which they are looked for.
    pub const ALL: [Kind; 6] =
        [Kind::Messages, Kind::Conversations, Kind::Prompt, Kind::Alpaca, Kind::Tokens, Kind::Text];

    /// The key that tells the kind.
    pub fn name(self) -> &'static str {
        self.keys()[0]
    }

    /// Every key that a row of the kind may use, the one that tells it first.
    pub fn keys(self) -> &'static [&'static str] {
        match self {
            Kind::Messages => &["messages", "tools"],
            Kind::Conversations => &["conversations", "system", "tools"],
            Kind::Prompt => &["prompt", "completion", "tools"],
            Kind::Alpaca => &["instruction", "input", "output", "system", "history"],
            Kind::Tokens => &["input_ids", "labels", "attention_mask"],
            Kind::Text => &["text"],
        }
    }

    /// The kind of a row that has these keys.
    pub(super) fn of(has: impl Fn(&str) -> bool) -> Option<Kind> {
        let tells = |kind: &Kind| has(kind.name()) || (*kind == Kind::Prompt && has("completion"));
        Kind::ALL.into_iter().find(tells)
    }
}

/// A line's kind and record. `kind` is the file's, `None` for its first row.
///
/// Errors: what is wrong with the row, by key and message number.
pub fn parse(line: &[u8], kind: Option<Kind>) -> Result<(Kind, Record), RowProblem> {
    from_object(object(line)?, kind, &Columns::default())
}

/// The JSON object of a line.
pub(super) fn object(line: &[u8]) -> Result<Map<String, Value>, RowProblem> {
    let text = std::str::from_utf8(line).map_err(|e| RowProblem::Utf8(e.valid_up_to() + 1))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(RowProblem::NotAnObject(type_name(&other))),
        Err(error) => Err(RowProblem::Json(place_in_row(&error))),
    }
}

/// A row's kind and record, its columns named as `columns` says.
///
/// Errors: as [`parse`].
pub fn from_object(
    mut row: Map<String, Value>,
    kind: Option<Kind>,
    columns: &Columns,
) -> Result<(Kind, Record), RowProblem> {
    let keys: Vec<_> = row.keys().take(8).map(|k| format!("`{k}`")).collect();
    columns.rename(&mut row);
    // Tables have a null where a row has no such key.
    let found = columns
        .kind()
        .or_else(|| Kind::of(|key| row.get(key).is_some_and(|value| !value.is_null())))
        .or_else(|| Kind::of(|key| row.contains_key(key)));
    let Some(found) = found else {
        let keys = if keys.is_empty() { "none".into() } else { keys.join(", ") };
        return Err(RowProblem::Kind(keys));
    };
    if let Some(expected) = kind.filter(|&kind| kind != found) {
        return Err(RowProblem::Mixed { expected: expected.name(), found: found.name() });
    }
    let record = record(row, found).map_err(|problem| columns.as_given(problem))?;
    Ok((found, record))
}

fn record(mut row: Map<String, Value>, kind: Kind) -> Result<Record, RowProblem> {
    let mut take = |key: &str| row.remove(key).unwrap_or(Value::Null);
    match kind {
        Kind::Messages => {
            let tools = tools(take("tools"))?;
            let messages = turns::messages("messages", take("messages"))?;
            chat("messages", messages, tools, 0)
        }
        Kind::Conversations => {
            let tools = tools(take("tools"))?;
            let system = optional_text("system", take("system"))?;
            let mut messages = turns::messages("conversations", take("conversations"))?;
            turns::check_beginning("conversations", &messages)?;
            if let Some(system) = system.filter(|_| messages[0]["role"] != "system") {
                messages.insert(0, serde_json::json!({"role": "system", "content": system}));
            }
            Ok(Record::Chat { messages, tools, loss_from: 0 })
        }
        Kind::Prompt => prompt(take("prompt"), take("completion"), tools(take("tools"))?),
        Kind::Alpaca => alpaca(take),
        Kind::Tokens => tokens(take("input_ids"), take("labels"), take("attention_mask")),
        Kind::Text => match take("text") {
            Value::String(text) if text.is_empty() => Err(problem("text", "is empty")),
            Value::String(text) => Ok(Record::Text(text)),
            other => Err(wrong("text", "a text", &other)),
        },
    }
}

fn chat(
    key: &str,
    messages: Vec<Value>,
    tools: Option<Value>,
    loss_from: usize,
) -> Result<Record, RowProblem> {
    turns::check_beginning(key, &messages)?;
    Ok(Record::Chat { messages, tools, loss_from })
}

/// A list of tools, or the text of one: a table's column has one type, and tools differ.
fn tools(value: Value) -> Result<Option<Value>, RowProblem> {
    match value {
        Value::Null => Ok(None),
        Value::Array(_) => Ok(Some(value)),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => match json_in_text(&text) {
            Some(Value::Null) => Ok(None),
            Some(tools @ Value::Array(_)) => Ok(Some(tools)),
            _ => Err(problem("tools", "must be a list, it is a text that is not a JSON list")),
        },
        other => Err(wrong("tools", "a list", &other)),
    }
}

/// JSON that stands in a text of a row; `None` for what is none, or is nested so deeply that the row with it
/// inside could not be read again.
pub(super) fn json_in_text(text: &str) -> Option<Value> {
    /// Readers of JSON, serde_json too, take some 128 levels.
    const DEEPEST: usize = 100;
    fn fits(value: &Value, levels: usize) -> bool {
        levels > 0
            && match value {
                Value::Array(list) => list.iter().all(|value| fits(value, levels - 1)),
                Value::Object(object) => object.values().all(|value| fits(value, levels - 1)),
                _ => true,
            }
    }
    serde_json::from_str(text).ok().filter(|value| fits(value, DEEPEST))
}

fn prompt(prompt: Value, completion: Value, tools: Option<Value>) -> Result<Record, RowProblem> {
    match (prompt, completion) {
        (Value::String(_), Value::String(completion)) if completion.is_empty() => {
            Err(problem("completion", "is empty: there is nothing to learn"))
        }
        (Value::String(prompt), Value::String(completion)) => {
            Ok(Record::Plain { prompt, completion })
        }
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let mut all = turns::messages("prompt", prompt)?;
            let loss_from = all.len();
            let completion = turns::messages("completion", completion)?;
            if completion.is_empty() {
                return Err(problem("completion", "is empty: there is nothing to learn"));
            }
            all.extend(completion);
            chat(if loss_from == 0 { "completion" } else { "prompt" }, all, tools, loss_from)
        }
        (Value::String(_), other) => Err(wrong("completion", "a text as the prompt is", &other)),
        (Value::Array(_), other) => Err(wrong("completion", "a list as the prompt is", &other)),
        (other, _) => Err(wrong("prompt", "a text", &other)),
    }
}

fn alpaca(mut take: impl FnMut(&str) -> Value) -> Result<Record, RowProblem> {
    match take("history") {
        Value::Null => {}
        Value::Array(turns) if turns.is_empty() => {}
        _ => return Err(problem("history", "is not read: write such rows as `messages`")),
    }
    let system = optional_text("system", take("system"))?;
    let input = optional_text("input", take("input"))?.unwrap_or_default();
    match (take("instruction"), take("output")) {
        (Value::String(_), Value::String(output)) if output.is_empty() => {
            Err(problem("output", "is empty: there is nothing to learn"))
        }
        (Value::String(instruction), Value::String(output)) => {
            Ok(Record::Alpaca { system, instruction, input, output })
        }
        (Value::String(_), other) => Err(wrong("output", "a text", &other)),
        (other, _) => Err(wrong("instruction", "a text", &other)),
    }
}

/// A text that may be missing or empty.
fn optional_text(key: &str, value: Value) -> Result<Option<String>, RowProblem> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        other => Err(wrong(key, "a text", &other)),
    }
}

/// Ready-made rows. Where `attention_mask` is 0 there is padding, which packing has no use for: it is
/// left out. Without `labels` there is loss on every token.
fn tokens(ids: Value, labels: Value, mask: Value) -> Result<Record, RowProblem> {
    let ids = integers("input_ids", ids)?.ok_or_else(|| problem("input_ids", "is null"))?;
    if ids.is_empty() {
        return Err(problem("input_ids", "is empty"));
    }
    let labels = integers("labels", labels)?.unwrap_or_else(|| ids.clone());
    let mask = integers("attention_mask", mask)?.unwrap_or_else(|| vec![1; ids.len()]);
    for (key, list) in [("labels", &labels), ("attention_mask", &mask)] {
        if list.len() != ids.len() {
            let counts = format!("has {} entries, `input_ids` has {}", list.len(), ids.len());
            return Err(problem(key, counts));
        }
    }
    let id = |key: &str, i: usize, value: i64, wanted: &str| {
        let wrong = || problem(&format!("{key}[{i}]"), format!("must be {wanted}, it is {value}"));
        u32::try_from(value).map_err(|_| wrong())
    };
    let (mut kept, mut learned) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
    for (i, ((&token, &label), &seen)) in ids.iter().zip(&labels).zip(&mask).enumerate() {
        let token = id("input_ids", i, token, "a token id")?;
        let label = match label {
            -100 => None,
            label => Some(id("labels", i, label, "a token id or -100")?),
        };
        match (seen, label) {
            (1, Some(label)) if label != token => {
                let is = format!("is {label}, but `input_ids[{i}]` is {token}");
                let text = format!("{is}: a label is the token itself, or -100 for no loss");
                return Err(problem(&format!("labels[{i}]"), text));
            }
            (1, _) => {
                kept.push(token);
                learned.push(label);
            }
            (0, None) => {}
            (0, Some(_)) => {
                return Err(problem(
                    &format!("labels[{i}]"),
                    "is learned, but `attention_mask` is 0",
                ));
            }
            (other, _) => {
                let key = format!("attention_mask[{i}]");
                return Err(problem(&key, format!("must be 0 or 1, it is {other}")));
            }
        }
    }
    if kept.is_empty() {
        return Err(problem("attention_mask", "is 0 for every token"));
    }
    Ok(Record::Tokens { input_ids: kept, labels: learned })
}

/// Whether all ids of a ready-made row are in a vocabulary of `vocab` ids.
///
/// Errors: the first that is not.
pub(super) fn check_vocabulary(record: &Record, vocab: usize) -> Result<(), RowProblem> {
    let Record::Tokens { input_ids, .. } = record else { return Ok(()) };
    match input_ids.iter().position(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(i) => {
            let is = format!("is {}, outside of the model's vocabulary", input_ids[i]);
            Err(problem(&format!("input_ids[{i}]"), format!("{is} of {vocab} ids")))
        }
    }
}

/// A list of integers; `None` for null.
fn integers(key: &str, value: Value) -> Result<Option<Vec<i64>>, RowProblem> {
    let list = match value {
        Value::Null => return Ok(None),
        Value::Array(list) => list,
        other => return Err(wrong(key, "a list of integers", &other)),
    };
    let one = |(i, value): (usize, &Value)| match value.as_i64() {
        Some(value) => Ok(value),
        None => Err(wrong(&format!("{key}[{i}]"), "an integer", value)),
    };
    list.iter().enumerate().map(one).collect::<Result<_, _>>().map(Some)
}

pub(super) fn problem(key: &str, problem: impl Into<String>) -> RowProblem {
    RowProblem::Key { key: key.into(), problem: problem.into() }
}

pub(super) fn wrong(key: &str, wanted: &str, found: &Value) -> RowProblem {
    match found {
        Value::Null => problem(key, format!("is missing, it must be {wanted}")),
        found => problem(key, format!("must be {wanted}, it is {}", type_name(found))),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// serde's message says "line 1" of the row; the file's line stands before it already.
fn place_in_row(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(line: &str) -> String {
        parse(line.as_bytes(), None).unwrap_err().to_string()
    }

    #[test]
    fn kinds_are_told_apart() {
        let (kind, row) = parse(br#"{"prompt": "a", "completion": "b", "id": 3}"#, None).unwrap();
        assert_eq!(kind, Kind::Prompt);
        assert_eq!(row, Record::Plain { prompt: "a".into(), completion: "b".into() });
        let chat = br#"{"messages": [{"role": "user", "content": "a", "name": "x"}]}"#;
        let (kind, row) = parse(chat, None).unwrap();
        assert_eq!(kind, Kind::Messages);
        assert!(matches!(&row, Record::Chat { messages, .. } if messages[0]["name"] == "x"));
        let (_, row) = parse(
            br#"{"prompt": [{"role": "user", "content": "a"}],
                 "completion": [{"role": "assistant", "content": "b"}]}"#,
            Some(Kind::Prompt),
        )
        .unwrap();
        assert!(
            matches!(row, Record::Chat { loss_from: 1, ref messages, .. } if messages.len() == 2)
        );
        let mixed = parse(chat, Some(Kind::Prompt)).unwrap_err();
        assert_eq!(mixed, RowProblem::Mixed { expected: "prompt", found: "messages" });
    }

    #[test]
    fn problems_name_key_and_message() {
        let cases = [
            ("{", "not JSON: EOF while parsing an object at column 1"),
            ("[1]", "a row must be a JSON object, this is a list"),
            (
                "{}",
                "has none of `messages`, `conversations`, `prompt`, `instruction`, `input_ids` and \
                 `text` (its keys: none)",
            ),
            (r#"{"text": 3}"#, "`text` must be a text, it is a number"),
            (r#"{"text": ""}"#, "`text` is empty"),
            (
                r#"{"prompt": "a", "completion": ""}"#,
                "`completion` is empty: there is nothing to learn",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": "a"}]}"#,
                "`messages[0]` is the assistant's: a conversation begins with a user or a system message",
            ),
            (
                r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "bot", "value": "b"}]}"#,
                "`conversations[1].from` is \"bot\", not one of human, gpt, system, tool, observation or \
                 function_call",
            ),
            (
                r#"{"conversations": [{"from": "human"}]}"#,
                "`conversations[0].value` is missing, it must be a text",
            ),
            (
                r#"{"conversations": [{"from": "function_call", "value": "run!"}]}"#,
                "`conversations[0].value` must be a function call: JSON with `name` and `arguments`",
            ),
            (r#"{"instruction": "a"}"#, "`output` is missing, it must be a text"),
            (
                r#"{"instruction": "a", "output": "b", "history": [["c", "d"]]}"#,
                "`history` is not read: write such rows as `messages`",
            ),
            (r#"{"input_ids": [1, "a"]}"#, "`input_ids[1]` must be an integer, it is a text"),
            (r#"{"input_ids": [1, -2]}"#, "`input_ids[1]` must be a token id, it is -2"),
            (
                r#"{"input_ids": [1, 2], "labels": [1]}"#,
                "`labels` has 1 entries, `input_ids` has 2",
            ),
            (
                r#"{"input_ids": [1, 2], "labels": [-100, -1]}"#,
                "`labels[1]` must be a token id or -100, it is -1",
            ),
            (
                r#"{"input_ids": [1, 2], "labels": [-100, 3]}"#,
                "`labels[1]` is 3, but `input_ids[1]` is 2: a label is the token itself, or -100 for no loss",
            ),
            (
                r#"{"input_ids": [1, 2], "attention_mask": [1, 0]}"#,
                "`labels[1]` is learned, but `attention_mask` is 0",
            ),
            (
                r#"{"input_ids": [1, 2], "labels": [-100, -100], "attention_mask": [0, 0]}"#,
                "`attention_mask` is 0 for every token",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "a"}], "tools": "none"}"#,
                "`tools` must be a list, it is a text that is not a JSON list",
            ),
            (r#"{"prompt": "a"}"#, "`completion` is missing, it must be a text as the prompt is"),
            (r#"{"completion": "a"}"#, "`prompt` is missing, it must be a text"),
            (r#"{"prompt": 3, "completion": "a"}"#, "`prompt` must be a text, it is a number"),
            (r#"{"messages": []}"#, "`messages` is empty"),
            (r#"{"messages": {}}"#, "`messages` must be a list of messages, it is an object"),
            (r#"{"messages": ["hi"]}"#, "`messages[0]` must be an object, it is a text"),
            (
                r#"{"messages": [{"role": "user", "content": "a"}, {"content": "b"}]}"#,
                "`messages[1].role` is missing, it must be a text",
            ),
            (
                r#"{"messages": [{"role": "user"}]}"#,
                "`messages[0].content` is missing, it must be a text",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
                "`messages[0].content` must be a text, it is a list",
            ),
        ];
        for (line, want) in cases {
            assert_eq!(problem_of(line), want);
        }
        let bytes = parse(b"{\"text\": \"\xff\"}", None).unwrap_err();
        assert_eq!(bytes.to_string(), "not UTF-8 at byte 11");
        assert!(parse("[".repeat(100_000).as_bytes(), None).is_err());
    }
}
