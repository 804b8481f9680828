//! `{% generation %}` blocks: what transformers' templates put around the assistant's tokens.
//!
//! Jinja has no such tag. Before a template is compiled, each block becomes a filter block that writes
//! a mark before and behind what it holds; after rendering, the marks say where the assistant's text
//! lies and are taken out. transformers runs the body as a macro, so what it sets is not seen outside:
//! here, a `with` block. Both tags keep their place, so their whitespace control (`{%- generation -%}`)
//! and that of trimmed blocks stay as they were.

use std::ops::Range;

use serde_json::Value;

/// The filter that a block becomes.
pub(super) const FILTER: &str = "dayrun_generation";

/// The marks are noncharacters of Unicode: they have no meaning in any text, and tokenizers never saw them.
const START: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

/// A rendered conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The bytes of `text` that came from generation blocks, in their order.
    pub generated: Vec<Range<usize>>,
}

/// `source` with each generation block as a filter block, and whether there is one.
///
/// Only tags count: comments, printed expressions, texts in quotes and raw blocks are left alone.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let (mut rest, mut found) = (source, false);
    while let Some(start) = rest.find("{") {
        let length = match rest[start..].get(..2) {
            Some("{#") => rest[start..].find("#}").map(|at| at + 2),
            Some("{{") => tag_length(&rest[start..], "}}"),
            Some("{%") => tag_length(&rest[start..], "%}"),
            _ => Some(1),
        };
        // Not closed: the compiler says so.
        let Some(length) = length else { break };
        let (before, tag) = (&rest[..start], &rest[start..start + length]);
        out.push_str(before);
        rest = &rest[start + length..];
        let inside = tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}"));
        let sign = |c: Option<char>| match c {
            Some('-') => "-",
            Some('+') => "+",
            _ => "",
        };
        match inside.map(|inside| (inside, word(inside))) {
            Some((inside, "generation")) => {
                found = true;
                let (left, right) = (sign(inside.chars().next()), sign(inside.chars().last()));
                out.push_str(&format!("{{%{left} filter {FILTER} %}}{{% with {right}%}}"));
            }
            Some((inside, "endgeneration")) => {
                let (left, right) = (sign(inside.chars().next()), sign(inside.chars().last()));
                out.push_str(&format!("{{%{left} endwith %}}{{% endfilter {right}%}}"));
            }
            Some((inside, "raw")) => {
                out.push_str(tag);
                // Jinja trims no line end behind this tag, minijinja does.
                if !inside.ends_with('-') && rest.starts_with('\n') {
                    out.push('\n');
                }
                let end = end_of_raw(rest);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            _ => out.push_str(tag),
        }
    }
    out.push_str(rest);
    (out, found)
}

/// What a tag says, without its signs.
fn word(inside: &str) -> &str {
    inside.trim_matches(|c: char| matches!(c, '-' | '+') || c.is_whitespace())
}

/// The length of a tag up to `close`, which does not count inside quotes.
fn tag_length(tag: &str, close: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if tag[at..].starts_with(close) => return Some(at + close.len()),
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None => {}
        }
    }
    None
}

/// Where the tag that ends a raw block begins in `rest`; its end if there is none.
fn end_of_raw(rest: &str) -> usize {
    let tags = rest.match_indices("{%").map(|(at, _)| at);
    let ends = |&at: &usize| {
        let length = rest[at..].find("%}");
        length.is_some_and(|length| word(&rest[at + 2..at + length]) == "endraw")
    };
    tags.into_iter().find(ends).unwrap_or(rest.len())
}

/// What a block writes.
pub(super) fn mark(body: &str) -> String {
    format!("{START}{body}{END}")
}

/// Whether a text in `value` holds a mark: then nobody could tell it from a block's.
pub(super) fn holds_marks(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains([START, END]),
        Value::Array(list) => list.iter().any(holds_marks),
        Value::Object(map) => map.iter().any(|(k, v)| k.contains([START, END]) || holds_marks(v)),
        _ => false,
    }
}

/// The marks taken out of `marked`; `None` if the template tore a block apart. A block inside another
/// counts as one with it.
pub(super) fn split(marked: &str) -> Option<Rendered> {
    let mut rendered =
        Rendered { text: String::with_capacity(marked.len()), generated: Vec::new() };
    let (mut depth, mut start) = (0_usize, 0);
    for piece in marked.split_inclusive([START, END]) {
        let (text, mark) = match piece.char_indices().next_back() {
            Some((at, c)) if c == START || c == END => (&piece[..at], Some(c)),
            _ => (piece, None),
        };
        rendered.text.push_str(text);
        match mark {
            Some(START) => {
                if depth == 0 {
                    start = rendered.text.len();
                }
                depth += 1;
            }
            Some(_) => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    rendered.generated.push(start..rendered.text.len());
                }
            }
            None => {}
        }
    }
    (depth == 0).then_some(rendered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        rewrite(source).0
    }

    #[test]
    fn only_tags_are_rewritten() {
        let start = "{%- filter dayrun_generation %}{% with -%}";
        let end = "{% endwith %}{% endfilter -%}";
        assert_eq!(
            rewritten("a {%- generation -%} b {% endgeneration -%} c"),
            format!("a {start} b {end} c")
        );
        assert!(rewrite("{%generation%}{%+ endgeneration +%}").1);
        for source in [
            "{# {% generation %} #}{{ x }}",
            "{{ '{% generation %}' ~ \"%}\" }}",
            "{% set x = '{% generation %}' %}",
            "{% raw %}{% generation %}{%- endraw -%}{% set generation = 1 %}",
            "{ {% if a %} { {%",
            "{{ 'never closed }}",
            "{% generations %} {% endgenerations %}",
        ] {
            assert_eq!(rewrite(source), (source.to_string(), false));
        }
    }

    #[test]
    fn marks_are_taken_out() {
        let inner = mark("b");
        let text = format!("a{inner}c{}{}", mark(""), mark(&format!("é{inner}x")));
        let rendered = split(&text).unwrap();
        assert_eq!(rendered.text, "abcébx");
        assert_eq!(rendered.generated, [1..2, 3..3, 3..7]);
        assert!(split("a\u{fdd1}b\u{fdd0}").is_none() && split("\u{fdd0}").is_none());
    }
}
