//! Rows of JSON: texts into records.

use dayrun::data::records::{Kind, Record, parse};
use serde_json::{Value, json};

use super::common::Rng;
use super::mutate;
use super::{Budget, check_message, for_each_input, json};

/// A parsed value takes some 80 bytes (a list of digits: two bytes each), and vectors double.
const BUDGET: Budget = Budget { fixed: 16 << 10, per_byte: 300 };

/// Of a hundred fields so many are left out, so many twice there, so many of any type.
const FAULTS: usize = 4;

/// A row that is almost right, of any kind.
pub fn row(rng: &mut Rng) -> String {
    let kind = Kind::ALL[rng.below(Kind::ALL.len())];
    row_of(rng, kind)
}

/// A row that is almost right.
pub fn row_of(rng: &mut Rng, kind: Kind) -> String {
    let mut fields = match kind {
        Kind::Messages => vec![("messages", messages(rng))],
        Kind::Conversations => vec![("conversations", conversation(rng))],
        Kind::Prompt if json::one_in(rng, 2) => {
            vec![("prompt", json::odd(rng)), ("completion", json::odd(rng))]
        }
        Kind::Prompt => vec![("prompt", messages(rng)), ("completion", messages(rng))],
        Kind::Alpaca => vec![
            ("instruction", json::odd(rng)),
            ("input", json::odd(rng)),
            ("output", json::odd(rng)),
            ("history", "[]".into()),
        ],
        Kind::Tokens => tokens(rng),
        Kind::Text => vec![("text", json::odd(rng))],
    };
    if json::one_in(rng, 4) {
        let value = json::value(rng, 3);
        let tools = [value.as_str(), "[]", "null", "\"[{\\\"name\\\": 1}]\"", "\" \""];
        fields.push(("tools", tools[rng.below(5)].into()));
    }
    if json::one_in(rng, 6) {
        fields.push(("system", json::odd(rng)));
    }
    json::object(rng, fields, FAULTS)
}

fn messages(rng: &mut Rng) -> String {
    let count = rng.below(5);
    let all: Vec<String> = (0..count).map(|i| message(rng, i)).collect();
    json::list(rng, &all)
}

fn message(rng: &mut Rng, i: usize) -> String {
    let role = ["system", "user", "assistant", "tool"][(i + rng.below(2)) % 4];
    let mut fields = vec![("role", json::text(rng, role)), ("content", json::odd(rng))];
    if json::one_in(rng, 6) {
        let call = call(rng);
        let fields_of_call = vec![("type", "\"function\"".into()), ("function", call)];
        let call = json::object(rng, fields_of_call, FAULTS);
        fields.push(("tool_calls", json::list(rng, &[call])));
        if json::one_in(rng, 2) {
            fields[1].1 = "null".into();
        }
    }
    json::object(rng, fields, FAULTS)
}

fn call(rng: &mut Rng) -> String {
    let fields = vec![("name", json::odd(rng)), ("arguments", json::value(rng, 2))];
    json::object(rng, fields, FAULTS)
}

/// ShareGPT's turns.
fn conversation(rng: &mut Rng) -> String {
    let names = ["system", "human", "gpt", "function_call", "observation", "gpt", "user", "nobody"];
    let count = rng.below(6);
    let mut all = Vec::new();
    for i in 0..count {
        let from = names[if json::one_in(rng, 9) { rng.below(8) } else { (i + 1) % 6 }];
        let value = match from {
            "function_call" => {
                let call = call(rng);
                json::text(rng, &call)
            }
            _ => json::odd(rng),
        };
        let fields = vec![("from", json::text(rng, from)), ("value", value)];
        all.push(json::object(rng, fields, FAULTS));
    }
    json::list(rng, &all)
}

/// Ready-made tokens; mostly labels and mask fit them.
fn tokens(rng: &mut Rng) -> Vec<(&'static str, String)> {
    let count = rng.below(8);
    let (mut ids, mut labels, mut mask) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        let id = rng.below(50_000).to_string();
        let (seen, learned) = (!json::one_in(rng, 5), !json::one_in(rng, 3));
        labels.push(if seen && learned { id.clone() } else { "-100".to_string() });
        mask.push(u8::from(seen).to_string());
        ids.push(id);
    }
    for list in [&mut ids, &mut labels, &mut mask] {
        if count > 0 && json::one_in(rng, 20) {
            let at = rng.below(count);
            list[at] = json::number(rng);
        }
    }
    let lists = [json::list(rng, &ids), json::list(rng, &labels), json::list(rng, &mask)];
    let mut fields: Vec<_> =
        ["input_ids", "labels", "attention_mask"].into_iter().zip(lists).collect();
    fields.truncate(1 + rng.below(3));
    fields
}

/// A record as a row of the kind that it came from.
pub fn write(kind: Kind, record: &Record) -> String {
    let mut row = match record {
        Record::Text(text) => json!({"text": text}),
        Record::Plain { prompt, completion } => json!({"prompt": prompt, "completion": completion}),
        Record::Alpaca { system, instruction, input, output } => {
            json!({"system": system, "instruction": instruction, "input": input, "output": output})
        }
        Record::Tokens { input_ids, labels } => {
            let labels = labels.iter().map(|label| label.map_or(-100, i64::from));
            json!({"input_ids": input_ids, "labels": labels.collect::<Vec<_>>()})
        }
        Record::Chat { messages, loss_from, .. } => match kind {
            Kind::Prompt => {
                let (prompt, completion) = messages.split_at(*loss_from);
                json!({"prompt": prompt, "completion": completion})
            }
            kind => json!({kind.name(): messages}),
        },
    };
    if let Record::Chat { tools: Some(tools), .. } = record {
        row["tools"] = tools.clone();
    }
    row.to_string()
}

/// What every accepted record is.
pub fn check_record(record: &Record) {
    match record {
        Record::Text(text) => assert!(!text.is_empty()),
        Record::Plain { completion: learned, .. } | Record::Alpaca { output: learned, .. } => {
            assert!(!learned.is_empty(), "nothing to learn");
        }
        Record::Tokens { input_ids, labels } => {
            assert!(!input_ids.is_empty(), "no tokens");
            assert_eq!(input_ids.len(), labels.len());
            let learned = input_ids.iter().zip(labels).all(|(id, l)| l.is_none_or(|l| l == *id));
            assert!(learned, "a label is another token");
        }
        Record::Chat { messages, tools, loss_from } => {
            assert!(*loss_from < messages.len(), "the loss begins behind the last message");
            assert!(tools.as_ref().is_none_or(Value::is_array), "{tools:?}");
            for message in messages {
                assert!(message["role"].as_str().is_some_and(|role| !role.is_empty()), "{message}");
                let calls = !message["tool_calls"].is_null();
                assert!(message["content"].is_string() || calls, "{message}");
            }
        }
    }
}

#[test]
fn rows_are_refused_or_read_back() {
    for_each_input("records", 4000, |rng| {
        let kind = Kind::ALL[rng.below(Kind::ALL.len())];
        let mut line = row_of(rng, kind).into_bytes();
        if json::one_in(rng, 3) {
            mutate::bytes(rng, &mut line);
        }
        let any = Kind::ALL[rng.below(Kind::ALL.len())];
        let file_kind = [None, None, Some(kind), Some(any)][rng.below(4)];
        match BUDGET.hold(line.len(), || parse(&line, file_kind)) {
            Err(problem) => {
                check_message(&problem.to_string(), line.len(), &[]);
                false
            }
            Ok((kind, record)) => {
                assert!(file_kind.is_none_or(|expected| expected == kind));
                check_record(&record);
                let again = write(kind, &record);
                assert_eq!(
                    parse(again.as_bytes(), file_kind),
                    Ok((kind, record)),
                    "written as {again}"
                );
                true
            }
        }
    });
}
