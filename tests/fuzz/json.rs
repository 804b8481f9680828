//! JSON texts as people, programs and accidents write them.

use super::common::Rng;
use super::mutate::odd_text;

/// One in `n`.
pub fn one_in(rng: &mut Rng, n: usize) -> bool {
    rng.below(n) == 0
}

/// A number's text. Most are valid JSON, among them what no f64 or i64 holds. None has so many digits or so
/// large an exponent that serde_json, without its feature `float_roundtrip`, reads it one bit off.
pub fn number(rng: &mut Rng) -> String {
    const NUMBERS: [&str; 31] = [
        "0",
        "-0",
        "1",
        "-1",
        "2",
        "8",
        "16",
        "64",
        "1.0",
        "1e2",
        "1E+2",
        "0.1",
        "2.5e-3",
        "-0.0",
        "1e-400",
        "1e400",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775808",
        "-9223372036854775809",
        "123456789.123456",
        "0.3000000000000",
        "1e16",
        "4294967296",
        "1025",
        "01",
        "+1",
        ".5",
        "1.",
        "NaN",
        "-Infinity",
    ];
    match rng.below(4) {
        0 => NUMBERS[rng.below(NUMBERS.len())].to_string(),
        1 => format!("{}", rng.below(1 << 20) as f64 / 64.0),
        2 => format!("{:.3e}", rng.normal() * 10f64.powi(rng.below(30) as i32 - 15)),
        _ => rng.below(4096).to_string(),
    }
}

/// A text in quotes: most characters as they are, some as escapes, a few escapes of nothing.
pub fn text(rng: &mut Rng, content: &str) -> String {
    let mut out = String::from("\"");
    let escaping = one_in(rng, 4);
    for c in content.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' if !escaping => out.push_str("\\n"),
            c if u32::from(c) < 0x20 || (escaping && one_in(rng, 3)) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    if one_in(rng, 200) {
        out.push_str(["\\ud800", "\\udc00\\ud800", "\\x41", "\\", "\\u12"][rng.below(5)]);
    }
    out.push('"');
    out
}

/// A text that finds mistakes, in quotes.
pub fn odd(rng: &mut Rng) -> String {
    let content = odd_text(rng);
    text(rng, &content)
}

/// Any value, up to `depth` levels of lists and objects, now and then far more.
pub fn value(rng: &mut Rng, depth: usize) -> String {
    if one_in(rng, 400) {
        let levels = [100, 124, 130, 3000][rng.below(4)];
        let (open, close) = [("[", "]"), ("{\"a\":", "}")][rng.below(2)];
        return format!("{}1{}", open.repeat(levels), close.repeat(levels));
    }
    match rng.below(if depth == 0 { 6 } else { 9 }) {
        0 => "null".into(),
        1 => ["true", "false"][rng.below(2)].into(),
        2 | 3 => number(rng),
        4 | 5 => odd(rng),
        6 | 7 => {
            let items: Vec<String> = (0..rng.below(4)).map(|_| value(rng, depth - 1)).collect();
            list(rng, &items)
        }
        _ => {
            let keys = ["a", "role", "content", "type", "function"];
            let fields = (0..rng.below(4))
                .map(|_| (keys[rng.below(keys.len())], value(rng, depth - 1)))
                .collect();
            object(rng, fields, 0)
        }
    }
}

/// A list of values' texts.
pub fn list(rng: &mut Rng, items: &[String]) -> String {
    format!("[{}]", items.join([",", ", "][rng.below(2)]))
}

/// An object of these fields. Of `faults` times in a hundred each, a field is left out, has any value, or
/// stands twice; keys that nobody knows stand between, and the order may be another.
pub fn object(rng: &mut Rng, fields: Vec<(&str, String)>, faults: usize) -> String {
    let mut written = Vec::new();
    for (key, content) in fields {
        let fault = rng.below(100) < faults;
        match rng.below(4) {
            0 if fault => continue,
            1 if fault => {
                let another = value(rng, 1);
                written.push((key.to_string(), another));
            }
            2 if fault => written.push((key.to_string(), value(rng, 2))),
            _ => {}
        }
        written.push((key.to_string(), content));
    }
    if faults > 0 && one_in(rng, 6) {
        let key = ["id", "source", "weight", "prompt", ""][rng.below(5)];
        let at = rng.below(written.len() + 1);
        let extra = value(rng, 2);
        written.insert(at, (key.to_string(), extra));
    }
    if one_in(rng, 4) && !written.is_empty() {
        let (a, b) = (rng.below(written.len()), rng.below(written.len()));
        written.swap(a, b);
    }
    let (colon, comma) = [(":", ","), (": ", ", "), (" :\t", " ,")][rng.below(3)];
    let fields: Vec<String> =
        written.iter().map(|(key, value)| format!("{}{colon}{value}", text(rng, key))).collect();
    format!("{{{}}}", fields.join(comma))
}
