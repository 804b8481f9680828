//! Values as Python prints them: `str()`, `repr()` and `json.dumps()`.
//!
//! Templates are written for Python: `{{ none }}` prints `None`, `{{ 1e20 }}` prints `1e+20`, a dict
//! prints with single quotes, and the model has seen exactly that.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, State};
use minijinja_contrib::pycompat;

/// `str.isspace()` of one character: Unicode's white space, and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Methods of strings, lists and dicts that minijinja does not know.
///
/// `strip`, `lstrip` and `rstrip` are here for Python's idea of white space, `rsplit` because it is missing
/// there.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let ours = ["strip", "lstrip", "rstrip", "rsplit"];
    let Some(text) = value.as_str().filter(|_| ours.contains(&name)) else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    if name == "rsplit" {
        let (separator, most): (&str, Option<i64>) = from_args(args)?;
        let pieces = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1);
        let pieces: Vec<&str> = text.rsplitn(pieces + 1, separator).collect();
        return Ok(pieces.into_iter().rev().map(Value::from).collect());
    }
    let (chars,): (Option<&str>,) = from_args(args)?;
    let gone = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    Ok(Value::from(match name {
        "lstrip" => text.trim_start_matches(gone),
        "rstrip" => text.trim_end_matches(gone),
        _ => text.trim_matches(gone),
    }))
}

/// Jinja's `trim`: `str(value).strip(chars)`.
pub(super) fn trim(value: Value, chars: Option<String>) -> String {
    let gone = |c: char| chars.as_ref().map_or_else(|| is_space(c), |chars| chars.contains(c));
    str(&value).trim_matches(gone).to_string()
}

/// `str(value)`.
pub(super) fn str(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_string(),
        _ => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items: Vec<_> = value.try_iter().into_iter().flatten().map(|v| repr(&v)).collect();
            match (value.is_tuple(), items.as_slice()) {
                (false, items) => format!("[{}]", items.join(", ")),
                (true, [one]) => format!("({one},)"),
                (true, items) => format!("({})", items.join(", ")),
            }
        }
        ValueKind::Map => {
            let keys = value.try_iter().into_iter().flatten();
            let entry = |key: Value| {
                let item = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&item))
            };
            format!("{{{}}}", keys.map(entry).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A string literal: single quotes unless only they occur inside.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => _ = write!(out, "\\x{:02x}", c as u32),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// An int, or a float in its shortest form with Python's choice between 0.0001 and 1e-05.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(x) => float(x),
        Err(_) => value.to_string(),
    }
}

fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// The options of `json.dumps`.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    /// Between items, and behind a key.
    pub separators: Option<(String, String)>,
    pub sort_keys: bool,
}

impl JsonStyle {
    /// `json.dumps(value, ...)`; the error says what has no JSON form.
    pub(super) fn dump(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        self.write(value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), String> {
        if depth > 200 {
            return Err("nested too deeply".into());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&json_number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter().map_err(|e| e.to_string())?.collect();
                self.items(&items, ['[', ']'], depth, out, |item, out| {
                    self.write(item, depth + 1, out)
                })?;
            }
            ValueKind::Map => {
                let mut entries = Vec::new();
                for key in value.try_iter().map_err(|e| e.to_string())? {
                    let item = value.get_item(&key).map_err(|e| e.to_string())?;
                    entries.push((json_key(&key)?, item));
                }
                if self.sort_keys {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                let colon = self.separators.as_ref().map_or(": ", |(_, key)| key);
                self.items(&entries, ['{', '}'], depth, out, |(key, item), out| {
                    self.string(key, out);
                    out.push_str(colon);
                    self.write(item, depth + 1, out)
                })?;
            }
            kind => return Err(format!("{kind} has no JSON form")),
        }
        Ok(())
    }

    fn items<T>(
        &self,
        items: &[T],
        [open, close]: [char; 2],
        depth: usize,
        out: &mut String,
        each: impl Fn(&T, &mut String) -> Result<(), String>,
    ) -> Result<(), String> {
        out.push(open);
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent.as_ref().filter(|_| !items.is_empty()) {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        let between = if self.indent.is_some() { "," } else { ", " };
        let comma = self.separators.as_ref().map_or(between, |(item, _)| item);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(comma);
            }
            line(depth + 1, out);
            each(item, out)?;
        }
        line(depth, out);
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && !c.is_ascii()) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match number(value).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        text => text.into(),
    }
}

/// A dict's key as JSON has it: a text.
fn json_key(key: &Value) -> Result<String, String> {
    Ok(match key.kind() {
        ValueKind::String => key.as_str().unwrap_or_default().to_string(),
        ValueKind::None => "null".into(),
        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
        ValueKind::Number => json_number(key),
        kind => return Err(format!("a key is {kind}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        Value::from(minijinja::value::Serde(
            serde_json::from_str::<serde_json::Value>(json).unwrap(),
        ))
    }

    #[test]
    fn prints_as_python_does() {
        let cases = [
            (r#"null"#, "None"),
            (r#"true"#, "True"),
            (r#"[1, 2.0, "a", null]"#, "[1, 2.0, 'a', None]"),
            (r#"{"b": 1, "a": "it's"}"#, r#"{'b': 1, 'a': "it's"}"#),
            (
                r#"[1e20, 1e15, 1e16, 0.0001, 0.00001, 123456.789]"#,
                "[1e+20, 1000000000000000.0, 1e+16, 0.0001, 1e-05, 123456.789]",
            ),
            (r#""plain 'text'""#, "plain 'text'"),
            (r#"["a\n\t\u0001\"'"]"#, r#"['a\n\t\x01"\'']"#),
        ];
        for (json, want) in cases {
            assert_eq!(str(&value(json)), want);
        }
    }

    #[test]
    fn dumps_as_json_does() {
        let v = value(r#"{"z": ["é", "<b>&'\u2028", 1.0, 10], "a": {}, "n": null, "e": []}"#);
        let plain = JsonStyle::default();
        let want =
            "{\"z\": [\"é\", \"<b>&'\u{2028}\", 1.0, 10], \"a\": {}, \"n\": null, \"e\": []}";
        assert_eq!(plain.dump(&v).unwrap(), want);
        let indented = JsonStyle { indent: Some("  ".into()), sort_keys: true, ..plain.clone() };
        let want = "{\n  \"a\": {},\n  \"e\": [],\n  \"n\": null,\n  \"z\": [\n    \"é\",\n    \
                    \"<b>&'\u{2028}\",\n    1.0,\n    10\n  ]\n}";
        assert_eq!(indented.dump(&v).unwrap(), want);
        let ascii = JsonStyle { ensure_ascii: true, ..plain.clone() };
        assert_eq!(ascii.dump(&value("\"é🙂\\u0001\"")).unwrap(), r#""\u00e9\ud83d\ude42\u0001""#);
        let tight = JsonStyle { separators: Some((",".into(), ":".into())), ..plain };
        assert_eq!(tight.dump(&value(r#"{"a": [1, 2]}"#)).unwrap(), r#"{"a":[1,2]}"#);
        assert!(JsonStyle::default().dump(&Value::UNDEFINED).is_err());
    }
}
