//! A conversation's messages: `role` and `content`, or ShareGPT's `from` and `value`.

use serde_json::{Map, Value, json};

use super::error::RowProblem;
use super::records::{json_in_text, problem, wrong};

/// A list of messages, each with a role and a content. ShareGPT's become the same.
///
/// Errors: what is wrong with which message.
pub(super) fn messages(key: &str, value: Value) -> Result<Vec<Value>, RowProblem> {
    let list = match value {
        Value::Array(list) => list,
        other => return Err(wrong(key, "a list of messages", &other)),
    };
    let one = |(i, message): (usize, Value)| {
        let key = format!("{key}[{i}]");
        let Value::Object(fields) = message else {
            return Err(wrong(&key, "an object", &message));
        };
        let given = |name: &str| fields.get(name).is_some_and(|value| !value.is_null());
        if given("from") && !given("role") {
            return from_share_gpt(&key, fields);
        }
        check(&key, &fields)?;
        Ok(Value::Object(fields))
    };
    list.into_iter().enumerate().map(one).collect()
}

/// A conversation that there is something to answer in.
pub(super) fn check_beginning(key: &str, messages: &[Value]) -> Result<(), RowProblem> {
    match messages.first() {
        None => Err(problem(key, "is empty")),
        Some(first) if first["role"] == "assistant" => Err(problem(
            &format!("{key}[0]"),
            "is the assistant's: a conversation begins with a user or a system message",
        )),
        Some(_) => Ok(()),
    }
}

fn check(key: &str, fields: &Map<String, Value>) -> Result<(), RowProblem> {
    match fields.get("role") {
        Some(Value::String(role)) if !role.is_empty() => {}
        Some(Value::String(_)) => return Err(problem(&format!("{key}.role"), "is empty")),
        other => {
            let other = other.unwrap_or(&Value::Null);
            return Err(wrong(&format!("{key}.role"), "a text", other));
        }
    }
    let calls = fields.get("tool_calls").is_some_and(|v| !v.is_null());
    match fields.get("content") {
        Some(Value::String(_)) => Ok(()),
        None | Some(Value::Null) if calls => Ok(()),
        other => {
            let other = other.unwrap_or(&Value::Null);
            Err(wrong(&format!("{key}.content"), "a text", other))
        }
    }
}

/// ShareGPT's speakers, as their data sets name them.
fn role(from: &str) -> Option<&'static str> {
    Some(match from {
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "assistant" | "model" => "assistant",
        "function_call" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        _ => return None,
    })
}

fn from_share_gpt(key: &str, mut fields: Map<String, Value>) -> Result<Value, RowProblem> {
    let from = match fields.remove("from") {
        Some(Value::String(from)) => from,
        other => return Err(wrong(&format!("{key}.from"), "a text", &other.unwrap_or_default())),
    };
    let value = match fields.remove("value") {
        Some(Value::String(value)) => value,
        other => return Err(wrong(&format!("{key}.value"), "a text", &other.unwrap_or_default())),
    };
    let Some(role) = role(&from) else {
        let known = "human, gpt, system, tool, observation or function_call";
        return Err(problem(&format!("{key}.from"), format!("is {from:?}, not one of {known}")));
    };
    if from == "function_call" {
        let calls = calls(&value).ok_or_else(|| {
            let wanted = "must be a function call: JSON with `name` and `arguments`";
            problem(&format!("{key}.value"), wanted)
        })?;
        return Ok(json!({"role": role, "content": "", "tool_calls": calls}));
    }
    Ok(json!({"role": role, "content": value}))
}

/// One call, or a list of them, as `tool_calls` has them.
fn calls(text: &str) -> Option<Vec<Value>> {
    let calls = match json_in_text(text)? {
        Value::Array(calls) if !calls.is_empty() => calls,
        call @ Value::Object(_) => vec![call],
        _ => return None,
    };
    let one = |call: Value| {
        let whole = call.get("name")?.is_string() && call.get("arguments").is_some();
        whole.then(|| json!({"type": "function", "function": call}))
    };
    calls.into_iter().map(one).collect()
}
