//! JSON lines: one row a line, `prompt` and `completion`, or chat `messages`.
//!
//! The first row decides the file's kind; a row of the other kind is a bad row. `prompt` and
//! `completion` are both texts, or both lists of messages (a conversation whose loss is counted in
//! the completion alone). Keys that are not known are left alone: real data sets carry many.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::error::RowProblem;

/// One row's content.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// Plain text: loss on the completion.
    Plain { prompt: String, completion: String },
    /// A conversation: loss on the assistant's turns from message `loss_from` on.
    Chat { messages: Vec<Value>, tools: Option<Value>, loss_from: usize },
}

/// What a file's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Prompt,
    Messages,
}

impl Kind {
    /// The key that tells the kind.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Prompt => "prompt",
            Kind::Messages => "messages",
        }
    }
}

/// A line's kind and record. `kind` is the file's, `None` for its first row.
///
/// Errors: what is wrong with the row, by key and message number.
pub fn parse(line: &[u8], kind: Option<Kind>) -> Result<(Kind, Record), RowProblem> {
    let value: Value =
        serde_json::from_slice(line).map_err(|e| RowProblem::Json(place_in_row(&e)))?;
    let row = match value {
        Value::Object(row) => row,
        other => return Err(RowProblem::NotAnObject(type_name(&other))),
    };
    let found = if row.contains_key("messages") {
        Kind::Messages
    } else if row.contains_key("prompt") || row.contains_key("completion") {
        Kind::Prompt
    } else {
        let keys: Vec<_> = row.keys().take(8).map(|k| format!("`{k}`")).collect();
        return Err(RowProblem::Kind(if keys.is_empty() {
            "none".into()
        } else {
            keys.join(", ")
        }));
    };
    if let Some(expected) = kind.filter(|&kind| kind != found) {
        return Err(RowProblem::Mixed { expected: expected.name(), found: found.name() });
    }
    Ok((found, record(row, found)?))
}

fn record(mut row: Map<String, Value>, kind: Kind) -> Result<Record, RowProblem> {
    let tools = match row.remove("tools") {
        None | Some(Value::Null) => None,
        Some(tools @ Value::Array(_)) => Some(tools),
        Some(other) => return Err(wrong("tools", "a list", &other)),
    };
    let mut take = |key: &str| row.remove(key).unwrap_or(Value::Null);
    match kind {
        Kind::Messages => {
            let messages = messages("messages", take("messages"))?;
            if messages.is_empty() {
                return Err(problem("messages", "is empty"));
            }
            Ok(Record::Chat { messages, tools, loss_from: 0 })
        }
        Kind::Prompt => match (take("prompt"), take("completion")) {
            (Value::String(prompt), Value::String(completion)) => {
                Ok(Record::Plain { prompt, completion })
            }
            (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
                let mut all = messages("prompt", prompt)?;
                let loss_from = all.len();
                all.extend(messages("completion", completion)?);
                Ok(Record::Chat { messages: all, tools, loss_from })
            }
            (Value::String(_), other) => {
                Err(wrong("completion", "a text as the prompt is", &other))
            }
            (Value::Array(_), other) => Err(wrong("completion", "a list as the prompt is", &other)),
            (other, _) => Err(wrong("prompt", "a text", &other)),
        },
    }
}

/// A list of messages, each with a role and a content.
fn messages(key: &str, value: Value) -> Result<Vec<Value>, RowProblem> {
    let list = match value {
        Value::Array(list) => list,
        other => return Err(wrong(key, "a list of messages", &other)),
    };
    for (i, message) in list.iter().enumerate() {
        let Value::Object(fields) = message else {
            return Err(wrong(&format!("{key}[{i}]"), "an object", message));
        };
        match fields.get("role") {
            Some(Value::String(role)) if !role.is_empty() => {}
            Some(Value::String(_)) => return Err(problem(&format!("{key}[{i}].role"), "is empty")),
            other => {
                let other = other.unwrap_or(&Value::Null);
                return Err(wrong(&format!("{key}[{i}].role"), "a text", other));
            }
        }
        let calls = fields.get("tool_calls").is_some_and(|v| !v.is_null());
        match fields.get("content") {
            Some(Value::String(_)) => {}
            None | Some(Value::Null) if calls => {}
            other => {
                let other = other.unwrap_or(&Value::Null);
                return Err(wrong(&format!("{key}[{i}].content"), "a text", other));
            }
        }
    }
    Ok(list)
}

fn problem(key: &str, problem: impl Into<String>) -> RowProblem {
    RowProblem::Key { key: key.into(), problem: problem.into() }
}

fn wrong(key: &str, wanted: &str, found: &Value) -> RowProblem {
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

/// A line of a file: its number from 1, and its bytes without the line end.
pub type Line = (usize, Vec<u8>);

/// At most `most` lines that are not blank, from `reader`; `number` counts all lines read. A byte
/// order mark before the first line is dropped. No lines: the end of the file.
pub fn read_lines(
    reader: &mut impl BufRead,
    number: &mut usize,
    most: usize,
) -> std::io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    while lines.len() < most {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        *number += 1;
        if *number == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        if !line.trim_ascii().is_empty() {
            lines.push((*number, line.trim_ascii().to_vec()));
        }
    }
    Ok(lines)
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
            ("{}", "has neither `messages` nor `prompt` and `completion` (its keys: none)"),
            (
                r#"{"text": "a"}"#,
                "has neither `messages` nor `prompt` and `completion` (its keys: `text`)",
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
        assert!(parse(b"\xff\xfe{}", None).is_err());
        assert!(parse("[".repeat(100_000).as_bytes(), None).is_err());
    }

    #[test]
    fn lines_keep_their_numbers() {
        let mut text = &b"\xef\xbb\xbf{\"a\": 1}\r\n\n   \n{\"b\": 2}\nlast"[..];
        let mut number = 0;
        let lines = read_lines(&mut text, &mut number, 2).unwrap();
        assert_eq!(lines, [(1, b"{\"a\": 1}".to_vec()), (4, b"{\"b\": 2}".to_vec())]);
        assert_eq!(read_lines(&mut text, &mut number, 2).unwrap(), [(5, b"last".to_vec())]);
        assert!(read_lines(&mut text, &mut number, 2).unwrap().is_empty());
    }
}
