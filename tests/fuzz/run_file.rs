//! Run files, with and without `--set`.

use std::path::Path;

use dayrun::config::{Key, RunFile, all_keys, parse};

use super::common::Rng;
use super::{Budget, check_message, for_each_input, json, mutate};

/// The table of all keys is made while reading; a TOML value takes some hundred bytes, with its place. Regular
/// expressions are compiled into programs of up to megabytes.
const BUDGET: Budget = Budget { fixed: 64 << 20, per_byte: 600 };

const FILE: &str = "run-7.toml";

/// A value that the key may well allow: its default, its example, a text that its rule quotes, a number.
fn value(rng: &mut Rng, key: &Key) -> String {
    let known = match &key.default {
        Some(default) if key.example.is_empty() => default.clone(),
        _ => key.example.to_string(),
    };
    let quoted: Vec<&str> = key.expects.split('"').skip(1).step_by(2).collect();
    match rng.below(20) {
        0 => {
            let text = mutate::odd_text(rng);
            toml::Value::from(text).to_string()
        }
        1 => json::number(rng),
        2 => [
            "true",
            "false",
            "[]",
            "[\"q_proj\", \"v_proj\"]",
            "{ a = 1 }",
            "1979-05-27",
            "nan",
            "''",
        ][rng.below(8)]
        .into(),
        3 | 4 => rng.below(5000).to_string(),
        5 => format!("{:?}", rng.uniform()),
        6..=9 if !quoted.is_empty() => format!("\"{}\"", quoted[rng.below(quoted.len())]),
        _ => known,
    }
}

/// A key, now and then misspelt.
fn name(rng: &mut Rng, name: &str) -> String {
    let mut name = name.to_string();
    if json::one_in(rng, 150) {
        match rng.below(3) {
            0 => name.push('s'),
            1 => drop(name.pop()),
            _ => name = format!("'{}'", mutate::odd_text(rng)),
        }
    }
    name
}

/// A file of some of the keys, each section in one of TOML's three ways.
fn file(rng: &mut Rng, keys: &[Key]) -> String {
    let mut text = String::new();
    let mut sections: Vec<&str> = keys.iter().map(|key| key.section).collect();
    sections.dedup();
    let one_in_keys = 1 + rng.below(8);
    for section in sections {
        let mut given = Vec::new();
        for key in keys.iter().filter(|key| key.section == section) {
            let required = key.is_required() && !json::one_in(rng, 60);
            if required || json::one_in(rng, 3 * one_in_keys) {
                // Most of the file is as the key's author meant it.
                let value = match key.is_required() {
                    true => key.example.to_string(),
                    false => value(rng, key),
                };
                given.push((name(rng, key.name), value));
                if json::one_in(rng, 200) {
                    given.extend(given.last().cloned());
                }
            }
        }
        if given.is_empty() {
            continue;
        }
        let section = name(rng, section);
        // What is given as dotted keys has to stand before the first section.
        let dotted = json::one_in(rng, 8);
        let prefix = if dotted { format!("{section}.") } else { String::new() };
        let lines: String = given.iter().map(|(k, v)| format!("{prefix}{k} = {v}\n")).collect();
        match dotted {
            true => text.insert_str(0, &lines),
            false => text.push_str(&format!("[{section}]\n{lines}# {section}\n\n")),
        }
    }
    text
}

/// Some `--set` arguments.
fn sets(rng: &mut Rng, keys: &[Key]) -> Vec<String> {
    let count = if json::one_in(rng, 3) { 1 + rng.below(3) } else { 0 };
    let mut sets = Vec::new();
    for _ in 0..count {
        let key = &keys[rng.below(keys.len())];
        let mut set = format!("{}={}", key.dotted(), value(rng, key)).into_bytes();
        if json::one_in(rng, 8) {
            mutate::bytes(rng, &mut set);
        }
        sets.push(String::from_utf8_lossy(&set).into_owned());
    }
    sets
}

#[test]
fn run_files_are_refused_or_read_back() {
    let keys = all_keys();
    for_each_input("run files", 2000, |rng| {
        let mut text = file(rng, &keys).into_bytes();
        if json::one_in(rng, 3) {
            mutate::bytes(rng, &mut text);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let sets = sets(rng, &keys);
        let len = text.len() + sets.iter().map(String::len).sum::<usize>();
        match BUDGET.hold(len, || parse(&text, Path::new(FILE), &sets)) {
            Err(error) => {
                let message = error.to_string();
                let place = sets.iter().any(|set| message.contains(&format!("--set {set}")));
                check_message(&message, len, if place { &[] } else { &[FILE] });
                check_message(&error.hint().unwrap_or_default(), len, &[]);
                false
            }
            Ok((run, _)) => {
                let resolved = run.resolved();
                match parse(&resolved, Path::new("resolved.toml"), &[]) {
                    Ok((again, _)) => {
                        assert_eq!(again, run, "{resolved}");
                        assert_eq!(again.resolved(), resolved);
                    }
                    Err(error) => panic!("{error}\n{resolved}"),
                }
                true
            }
        }
    });
}

/// The commented file is where people start: it, with one thing changed.
#[test]
fn the_commented_file_damaged_is_refused_or_read_back() {
    let whole = RunFile::commented();
    for_each_input("commented run files", 200, |rng| {
        let mut text = whole.clone().into_bytes();
        mutate::bytes(rng, &mut text);
        let text = String::from_utf8_lossy(&text);
        match BUDGET.hold(text.len(), || parse(&text, Path::new(FILE), &[])) {
            Err(error) => {
                check_message(&error.to_string(), text.len(), &[FILE]);
                false
            }
            Ok((run, _)) => {
                let (again, _) = parse(&run.resolved(), Path::new(FILE), &[]).expect("reads");
                assert_eq!(again, run);
                true
            }
        }
    });
}
